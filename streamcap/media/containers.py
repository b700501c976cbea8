"""Accepted formats of video files. Formats that refer to other files (playlists, manifests) are excluded."""

from __future__ import annotations

# libavformat's demuxer names. Names that a build of libav does not know are ignored.
_VIDEO = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,asf_o,mxf,nut,wtv,rm,swf,dv,gxf,lxf,nsv,nuv,pva,ty,"
    "dhav,ifv,kux,ivf,obu,av1,gif,apng,webp_anim,jpegxl_anim,yuv4mpegpipe,m4v,mjpeg,mjpeg_2000,mpjpeg,smjpeg,"
    "h261,h263,h264,hevc,vvc,evc,vc1,vc1test,dirac,avs2,avs3,cavsvideo,dnxhd,"
    "3dostr,4xm,anm,bethsoftvid,bink,c93,cdxl,cine,dsicin,dxa,ea,film_cpk,filmstrip,flic,idcin,jv,lmlm4,mm,moflex,mtv,"
    "mv,mvi,paf,psxstr,roq,rpl,smk,smush,thp,tiertexseq,usm,viv,vividas,vivo,vmd,wc3movie,wsvqa,xmv,yop"
)
# Audio formats are recognized for a clear error.
_SOUND = "mp3,aac,ac3,eac3,wav,w64,flac,aiff,caf,amr,dts,ape,tta,wv,au"
FILE_FORMATS = f"{_VIDEO},{_SOUND}"
FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FILE_FORMATS}
"""Options for `av.open` of a local file: opens no other file, whatever the file contains."""
ACCEPTED = "MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV or another video container"
"""The formats in words, for errors."""
