"""Accepted formats of video files. Formats that refer to other files (playlists, manifests) are excluded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

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

_RAW_FORMATS = {".mjpeg": "mjpeg", ".mjpg": "mjpeg"}
_BOXES_OF_MP4 = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"uuid"})


def file_format(path: Path) -> str | None:
    """The format of a file that its content does not tell: JPEGs without a container look like one image."""
    return _RAW_FORMATS.get(path.suffix.lower())


def why_unreadable(path: Path) -> str | None:
    """Why libav cannot open a video file: it is empty, or an MP4 without its index; None: another reason."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "the file is empty"
            boxes = list(mp4_boxes(file))
    except OSError:
        return None
    if not boxes or not set(boxes) <= _BOXES_OF_MP4 or b"moov" in boxes:
        return None
    return "an MP4 without its index (moov box): its recording was not finished, or it is cut short"


def mp4_boxes(file: IO[bytes]) -> Iterator[bytes]:
    """The types of the top-level boxes of an MP4, as far as `file` reaches."""
    end = file.seek(0, 2)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        yield header[4:8]
        # Size 0: to the end of the file.
        if size < 8:
            return
        at += size
