"""Addresses of cameras and streams as makers document them, with secrets put in every place that people use.

`{0}`, `{1}` and `{2}` are secrets. Five addresses for each of 52 makers and services.
"""

from __future__ import annotations

from itertools import count

MAKERS: dict[str, tuple[str, ...]] = {
    "hikvision": (
        "rtsp://admin:{0}@10.1.0.2:554/Streaming/Channels/101",
        "rtsp://10.1.0.2:554/Streaming/Channels/102?transportmode=unicast&auth={0}",
        "rtsp://10.1.0.2/h264/ch1/main/av_stream?user={0}&pwd={1}",
        "http://admin:{0}@10.1.0.2/ISAPI/Streaming/channels/101/image",
        "http://10.1.0.2/ISAPI/Streaming/channels/201/httpPreview?sessionID={0}",
    ),
    "dahua": (
        "rtsp://admin:{0}@10.2.0.2:554/cam/realmonitor?channel=1&subtype=0",
        "rtsp://10.2.0.2:554/cam/realmonitor?channel=2&subtype=1&authbasic={0}",
        "rtsp://{0}:{1}@10.2.0.2:554/live",
        "http://10.2.0.2/cgi-bin/snapshot.cgi?channel=1&loginuse={0}&loginpas={1}",
        "http://10.2.0.2/cgi-bin/mjpg/video.cgi?channel=3&subtype=1&pswd={0}",
    ),
    "axis": (
        "rtsp://root:{0}@10.3.0.2/axis-media/media.amp?videocodec=h264&resolution=1280x720",
        "http://root:{0}@10.3.0.2/axis-cgi/mjpg/video.cgi?camera=1",
        "http://10.3.0.2/axis-cgi/jpg/image.cgi?camera=2&access_token={0}",
        "rtsp://10.3.0.2/axis-media/media.amp?camera=3&jwt={0}",
        "rtsp://10.3.0.2/axis-media/media.amp?%74oken={0}",
    ),
    "xiongmai": (
        "rtsp://10.4.0.2:554/user={0}_password={1}_channel=1_stream=0.sdp",
        "rtsp://10.4.0.2:554/user={0}&password={1}&channel=2&stream=1.sdp?real_stream",
        "rtsp://10.4.0.2:554/user={0}_password={1}_channel=3_stream=0&onvif=0.sdp?real_stream",
        "rtsp://10.4.0.2:554/{0}:{1}/ch4/main",
        "http://10.4.0.2/webcapture.jpg?command=snap&channel=1&user={0}&password={1}",
    ),
    "foscam": (
        "rtsp://10.5.0.2:88/videoMain?usr={0}&pwd={1}",
        "http://10.5.0.2:88/cgi-bin/CGIProxy.fcgi?cmd=snapPicture2&usr={0}&pwd={1}",
        "http://10.5.0.2:88/cgi-bin/CGIStream.cgi?cmd=GetMJStream&usr={0}&pwd={1}",
        "http://10.5.0.2/videostream.cgi?loginuse={0}&loginpas={1}&resolution=32",
        "rtsp://{0}:{1}@10.5.0.2:88/videoSub",
    ),
    "reolink": (
        "rtsp://admin:{0}@10.6.0.2:554/h264Preview_01_main",
        "rtmp://10.6.0.2/bcs/channel0_main.bcs?channel=0&stream=0&user={0}&password={1}",
        "http://10.6.0.2/cgi-bin/api.cgi?cmd=Snap&channel=0&rs={2}&user={0}&password={1}",
        "https://10.6.0.2/flv?port=1935&app=bcs&stream=channel0_ext.bcs&token={0}",
        "http://10.6.0.2/cgi-bin/api.cgi?cmd=Snap&channel=0&rs={0}&token={1}",
    ),
    "amcrest": (
        "rtsp://admin:{0}@10.7.0.2/cam/realmonitor?channel=1&subtype=00&authbasic={1}",
        "http://{0}:{1}@10.7.0.2/cgi-bin/snapshot.cgi",
        "http://10.7.0.2/cgi-bin/snapshot.cgi?_sid={0}",
        "rtsp://10.7.0.2/{0}/{1}/live.sdp",
        "https://10.7.0.2/cam/mjpg?authToken={0}",
    ),
    "tp-link": (
        "rtsp://{0}:{1}@10.8.0.2:554/stream1",
        "rtsp://{0}:{1}@10.8.0.2:554/stream2",
        "https://10.8.0.2:19443/https/stream/mixed?video=h264&audio=g711&auth={0}",
        "http://10.8.0.2/stok={0}/ds",
        "http://10.8.0.2/stream/video/mjpeg?stok={0}",
    ),
    "ubiquiti": (
        "rtsps://10.9.0.2:7441/{0}?enableSrtp",
        "rtsp://10.9.0.2:7447/{0}",
        "https://10.9.0.2/proxy/protect/api/cameras/{0}/snapshot?ts={1}",
        "https://10.9.0.2/api/cameras/snapshot?accessKey={0}",
        "rtsp://ubnt:{0}@10.9.0.2:554/s0",
    ),
    "bosch": (
        "rtsp://service:{0}@10.10.0.2/rtsp_tunnel?h26x=4&line=1&inst=1",
        "rtsp://10.10.0.2/?inst=2&passwd={0}",
        "http://10.10.0.2/snap.jpg?JpegSize=XL&usr={0}&pwd={1}",
        "http://live:{0}@10.10.0.2/snap.jpg",
        "rtsp://10.10.0.2/video?line=2#{0}",
    ),
    "hanwha": (
        "rtsp://admin:{0}@10.11.0.2/profile2/media.smp",
        "rtsp://10.11.0.2/0/profile5/media.smp?session={0}",
        "http://admin:{0}@10.11.0.2/stw-cgi/video.cgi?msubmenu=snapshot&action=view",
        "http://10.11.0.2/stw-cgi/video.cgi?msubmenu=stream&SessionKey={0}",
        "rtsp://10.11.0.2/onvif/profile1/media.smp?password={0}",
    ),
    "vivotek": (
        "rtsp://root:{0}@10.12.0.2/live.sdp",
        "http://root:{0}@10.12.0.2/video.mjpg",
        "http://10.12.0.2/cgi-bin/viewer/video.jpg?channel=0&resolution=640x480&passwd={0}",
        "rtsp://10.12.0.2/live2.sdp?credential={0}",
        "http://10.12.0.2/video2.mjpg?u={0}&p={1}",
    ),
    "panasonic": (
        "rtsp://{0}:{1}@10.13.0.2/MediaInput/h264",
        "http://10.13.0.2/nphMotionJpeg?Resolution=640x480&Quality=Standard&UID={0}",
        "http://10.13.0.2/SnapshotJPEG?Resolution=640x480&Quality=Clarity&pass={0}",
        "http://10.13.0.2/cgi-bin/camera?page={0}",
        "rtsp://10.13.0.2/MediaInput/h265/stream_1?{0}",
    ),
    "sony": (
        "rtsp://{0}:{1}@10.14.0.2/media/video1",
        "http://10.14.0.2/oneshotimage.jpg?{0}",
        "http://10.14.0.2/image?speed=5&key={0}",
        "rtsp://10.14.0.2/media/video2;jsessionid={0}",
        "http://10.14.0.2/img/mjpeg.cgi?apikey={0}",
    ),
    "d-link": (
        "rtsp://{0}:{1}@10.15.0.2/live1.sdp",
        "http://10.15.0.2/video.cgi?resolution=VGA&pw={0}",
        "http://10.15.0.2/mjpeg.cgi?user={0}&password={1}&channel=1",
        "http://10.15.0.2/image/jpeg.cgi?api_key={0}",
        "rtsp://10.15.0.2/play1.sdp?sid={0}",
    ),
    "mobotix": (
        "http://{0}:{1}@10.16.0.2/control/faststream.jpg?stream=full&fps=10",
        "http://10.16.0.2/record/current.jpg?pin={0}",
        "http://10.16.0.2/cgi-bin/faststream.jpg?stream=MxPEG&auth={0}",
        "rtsp://10.16.0.2/mobotix.mjpeg?secret={0}",
        "rtsp://10.16.0.2/stream0/mobotix.h264?code={0}",
    ),
    "uniview": (
        "rtsp://admin:{0}@10.17.0.2:554/media/video1",
        "rtsp://10.17.0.2:554/unicast/c1/s0/live?token={0}",
        "rtsp://10.17.0.2/media/video2/multicast?passw={0}",
        "http://10.17.0.2/images/snapshot.jpg?login={0}",
        "http://10.17.0.2/cgi-bin/snapshot.cgi?usrpwd={0}",
    ),
    "tiandy": (
        "rtsp://{0}:{1}@10.18.0.2:554/1/1",
        "rtsp://10.18.0.2:554/1/2/{0}",
        "rtsp://10.18.0.2/video1?userpass={0}",
        "http://10.18.0.2/CGI/Video/snap?Nonce={0}",
        "rtsp://10.18.0.2/login={0}&passwd={1}/1/1",
    ),
    "grandstream": (
        "rtsp://{0}:{1}@10.19.0.2/0",
        "http://10.19.0.2/snapshot/view0.jpg?password={0}",
        "http://10.19.0.2/goform/stream?cmd=get&channel=0&Passphrase={0}",
        "rtsp://10.19.0.2/4?{0}={1}",
        "http://10.19.0.2/snapshot/view1.jpg?x={0}",
    ),
    "wansview": (
        "rtsp://{0}:{1}@10.20.0.2/live/ch0",
        "rtsp://10.20.0.2/live/ch1?tok={0}",
        "http://10.20.0.2/mjpeg.cgi?user={0}&pwd={1}",
        "http://10.20.0.2/videostream.asf?user={0}&pwd={1}&resolution=64&rate=0",
        "rtsp://10.20.0.2/{0}",
    ),
    "wyze": (
        "rtsp://{0}:{1}@10.21.0.2/live",
        "rtsp://10.21.0.2:8554/front-yard?apikey={0}",
        "http://10.21.0.2:8888/{0}/stream.m3u8",
        "http://10.21.0.2:5000/img/door.jpg?api={0}",
        "https://10.21.0.2/signaling/door?{0}",
    ),
    "eufy": (
        "rtsp://{0}:{1}@10.22.0.2/live0",
        "rtsp://10.22.0.2/live0?ticket={0}",
        "rtmp://10.22.0.2:443/{0}/live",
        "rtmps://10.22.0.2/live/{0}",
        "rtsp://10.22.0.2/{0}/live1",
    ),
    "arlo": (
        "rtsps://10.23.0.2:443/vzmodulelive/{0}?egressToken={1}&userAgent=web&cameraId={2}",
        "https://10.23.0.2/hmsweb/users/library?sig={0}",
        "https://10.23.0.2/dash/{0}_{1}.mpd",
        "https://10.23.0.2/snapshot.jpg?X-Amz-Signature={0}&X-Amz-Credential={1}",
        "https://10.23.0.2/live.m3u8?Policy={0}&Key-Pair-Id={1}",
    ),
    "ring": (
        "rtsp://10.24.0.2:8554/{0}_live",
        "rtsp://{0}:{1}@10.24.0.2:8554/door_live",
        "https://10.24.0.2/clips/video.mp4?Expires=1&Signature={0}",
        "https://10.24.0.2/api/camera_proxy_stream/camera.door?token={0}",
        "https://10.24.0.2/snapshots/image/1?auth_token={0}",
    ),
    "nest": (
        "rtsps://10.25.0.2:443/{0}?auth={1}",
        "https://10.25.0.2/get_image?uuid={0}&width=640",
        "https://10.25.0.2/nexus_aac/{0}/playlist.m3u8?public={1}",
        "rtmps://10.25.0.2/nexus/{0}",
        "https://10.25.0.2/live/v1/{0}",
    ),
    "tuya": (
        "rtsps://10.26.0.2:443/v1/proxy/echo?signInfo={0}",
        "rtsps://10.26.0.2/v1/proxy/stream?devId={0}&localKey={1}",
        "https://10.26.0.2/hls/{0}.m3u8?signInfo={1}",
        "rtmp://10.26.0.2/live/{0}?txSecret={1}&txTime={2}",
        "https://10.26.0.2/flv/stream.flv?wsSecret={0}&wsTime={1}",
    ),
    "ezviz": (
        "rtsp://admin:{0}@10.27.0.2:554/H.264",
        "rtsp://10.27.0.2:554/h264_stream?verifyCode={0}",
        "https://10.27.0.2/v3/openlive/{0}_1_1.m3u8?expire={1}&id={2}",
        "ezopen://{0}@10.27.0.2/C1/1.hd.live",
        "rtmp://10.27.0.2/v3/openlive/live?t={0}&ev={1}",
    ),
    "lorex": (
        "rtsp://admin:{0}@10.28.0.2:554/cam/realmonitor?channel=5&subtype=0",
        "rtsp://10.28.0.2/ch00/0?user%3D{0}%26password%3D{1}",
        "rtsp://10.28.0.2/ch01/0?%70assword={0}",
        "http://10.28.0.2/cgi-bin/jpg/image.cgi?%2570wd={0}",
        "http://10.28.0.2/snapshot.jpg?{0}",
    ),
    "swann": (
        "rtsp://admin:{0}@10.29.0.2:554/ch01/0",
        "rtsp://10.29.0.2/live/h264/ch2?pass-word={0}",
        "http://10.29.0.2/cgi-bin/snapshot.cgi?chn=0&u={0}&p={1}",
        "http://10.29.0.2/images/snapshot.jpg?chn=1&q=0&d={0}",
        "rtsp://10.29.0.2/admin/{0}/ch3/0",
    ),
    "annke": (
        "rtsp://admin:{0}@10.30.0.2:554/Streaming/Channels/301",
        "rtsp://10.30.0.2/H264/ch1/sub/av_stream?username={0}&passwd={1}",
        "rtsp://admin:{0}/{1}@10.30.0.2/live",
        "rtsp://admin:{0}#{1}@10.30.0.2/live/ch2",
        "rtsp://admin:{0}?{1}@10.30.0.2:554/live",
    ),
    "geovision": (
        "rtsp://{0}:{1}@10.31.0.2:8554/CH001.sdp",
        "http://10.31.0.2/PictureCatch.cgi?username={0}&password={1}&channel=1",
        "http://10.31.0.2/GetImage.cgi?data_type=0&channel=1&id={0}&pw={1}",
        "rtsp://10.31.0.2/media/1?GvPass={0}",
        "http://10.31.0.2/phoneget?usr={0}&pwd={1}&channel=1",
    ),
    "acti": (
        "http://10.32.0.2/cgi-bin/encoder?USER={0}&PWD={1}&SNAPSHOT",
        "http://10.32.0.2/cgi-bin/cmd/system?GET_STREAM&USER={0}&PWD={1}",
        "rtsp://{0}:{1}@10.32.0.2:7070/track1",
        "rtsp://10.32.0.2:7070/track2?PWD={0}",
        "http://10.32.0.2/cgi-bin/cmd/encoder?GET_STREAM={0}",
    ),
    "avigilon": (
        "rtsp://{0}:{1}@10.33.0.2/defaultPrimary?streamType=u",
        "rtsp://10.33.0.2/defaultSecondary?streamType=u&session={0}",
        "https://10.33.0.2:8443/mt/api/rest/v1/media?session={0}&format=jpeg",
        "https://10.33.0.2/media/cameras/frame?cameraId={0}",
        "https://10.33.0.2/media/live;token={0}/video",
    ),
    "milestone": (
        "rtsp://{0}:{1}@10.34.0.2:554/live/{2}",
        "http://10.34.0.2:8081/XProtectMobile/Video/{0}/",
        "rtsp://10.34.0.2/live?guid={0}",
        "https://10.34.0.2/api/webRTC/v1/sessions?bearer={0}",
        "https://10.34.0.2/idp/connect?client_secret={0}",
    ),
    "blue iris": (
        "http://10.35.0.2:81/mjpg/cam1?user={0}&pw={1}",
        "http://10.35.0.2:81/image/cam2?session={0}",
        "http://10.35.0.2:81/h264/cam3/temp.m3u8?session={0}",
        "rtsp://{0}:{1}@10.35.0.2:81/cam4",
        "http://10.35.0.2:81/audio/cam5/temp.wav?pw={0}",
    ),
    "synology": (
        "rtsp://syno:{0}@10.36.0.2:554/Sms=1.unicast",
        "http://10.36.0.2:5000/webapi/entry.cgi?api=SYNO.SurveillanceStation.Camera&method=GetSnapshot&_sid={0}",
        "http://10.36.0.2:5000/webapi/SurveillanceStation/videoStreaming.cgi?cameraId=1&format=mjpeg&_sid={0}",
        "https://10.36.0.2:5001/webapi/auth.cgi?account={0}&passwd={1}",
        "rtsp://10.36.0.2/Sms=2.unicast?SynoToken={0}",
    ),
    "akamai": (
        "https://10.37.0.2/hls/live/1/master.m3u8?hdnts=exp={0}~acl=/*~hmac={1}",
        "https://10.37.0.2/hls/live/2/master.m3u8?hdnea=st={0}~exp={1}~hmac={2}",
        "https://10.37.0.2/live/3/index.m3u8?__token__={0}",
        "https://10.37.0.2/{0}/live/index.m3u8",
        "https://10.37.0.2/live/4/index.m3u8#{0}",
    ),
    "srt gateway": (
        "srt://10.38.0.2:9000?mode=caller&passphrase={0}",
        "srt://10.38.0.2:9000?mode=caller&streamid=#!::r=live/cam,m=request,u={0},s={1}",
        "srt://10.38.0.2:9000?streamid=read:door:{0}:{1}&latency=200",
        "srt://10.38.0.2:9000?streamid=%23!::r=cam,s={0}",
        "srt://10.38.0.2:9000?s={0}&pbkeylen=16",
    ),
    "streaming server": (
        "rtmp://10.39.0.2/live/{0}",
        "rtmp://10.39.0.2/app/live?streamkey={0}",
        "rtmp://10.39.0.2/app pubUser={0} pubPasswd={1}",
        "rtsp://10.39.0.2:8554/cam?jwt={0}",
        "http://10.39.0.2:8888/cam/index.m3u8?user={0}&pass={1}",
    ),
    "esp32 and phones": (
        "http://10.40.0.2:81/stream?{0}",
        "http://10.40.0.2:8080/video?login={0}:{1}",
        "http://{0}:{1}@10.40.0.2:8080/videofeed",
        "http://10.40.0.2:8080/shot.jpg?rnd={0}",
        "http://10.40.0.2/webcam/?action=stream&k={0}",
    ),
    "arecont": (
        "rtsp://{0}:{1}@10.41.0.2/h264.sdp?res=half&x0=0&y0=0&x1=1600&y1=1200&quality=15&doublescan=0&ssn={2}",
        "http://10.41.0.2/img.jpg?auth={0}",
        "http://10.41.0.2/mjpeg?res=full&user={0}&pass={1}",
        "rtsp://10.41.0.2/{0}/{1}/h264.sdp",
        "http://10.41.0.2/image?res=half&ssn={0}&session={1}",
    ),
    "pelco": (
        "rtsp://10.42.0.2/stream1?Authorization=Basic%20{0}",
        "rtsp://{0}:{1}@10.42.0.2/LiveMedia/ch1/Media1",
        "http://10.42.0.2/jpeg?id=1&authtoken={0}",
        "http://10.42.0.2/api/1/media/stream?_sid={0}",
        "rtsp://10.42.0.2/media/{0}@{1}/1",
    ),
    "verkada": (
        "https://10.43.0.2/stream/cameras/v1/footage/stream/stream.m3u8?org_id={0}&camera_id=7&jwt={1}&type=stream",
        "https://10.43.0.2/live/{0}/index.m3u8",
        "https://10.43.0.2/thumb.jpg?x-api-key={0}",
        "https://10.43.0.2/hls/{0}/{1}/720p.m3u8",
        "wss://10.43.0.2/ws?apiKey={0}",
    ),
    "dropcam and cloud": (
        "rtsps://10.44.0.2:443/{0}?auth={1}",
        "rtsps://10.44.0.2:7441/{0}?enableSrtp",
        "rtsp://10.44.0.2:7447/{0}",
        "https://10.44.0.2/vod/{0}~{1}.m3u8",
        "https://10.44.0.2/embed/live.m3u8;jsessionid={0}",
    ),
    "frigate and go2rtc": (
        "rtsp://10.45.0.2:8554/door?src=rtsp://admin:{0}@10.0.0.9/live",
        "http://10.45.0.2:1984/api/stream.m3u8?src=rtsp%3A%2F%2Fadmin%3A{0}%4010.0.0.9%2Flive",
        "http://10.45.0.2:1984/api/frame.jpeg?src=tapo://{0}@10.0.0.9",
        "http://10.45.0.2:5000/api/door/latest.jpg?h=300&token={0}",
        "http://10.45.0.2/api/camera_proxy_stream/camera.door?token={0}",
    ),
    "zoneminder": (
        "http://10.46.0.2/zm/cgi-bin/nph-zms?mode=jpeg&monitor=1&user={0}&pass={1}",
        "http://10.46.0.2/cgi-bin/nph-zms?mode=single&monitor=1&auth={0}",
        "http://10.46.0.2/zm/cgi-bin/zms?monitor=2&connkey={0}",
        "http://10.46.0.2/zm/index.php?view=image&eid=1&username={0}&password={1}",
        "http://10.46.0.2/zm/cgi-bin/zms?monitor=3&token={0}&stateless=1",
    ),
    "shinobi": (
        "http://10.47.0.2:8080/{0}/mjpeg/{1}/cam1",
        "http://10.47.0.2:8080/{0}/hls/{1}/cam1/s.m3u8",
        "http://10.47.0.2:8080/{0}/jpeg/{1}/cam1/s.jpg",
        "http://10.47.0.2:8080/{0}/h264/{1}/feed/1",
        "http://10.47.0.2:8080/{0}/embed/{1}/cam1/jquery%7Cfullscreen",
    ),
    "cloudfront": (
        "https://10.48.0.2/live/index.m3u8?Policy={0}&Signature={1}&Key-Pair-Id={2}",
        "https://10.48.0.2/live/index.m3u8?Expires=1767225600&Signature={0}&KeyName={1}",
        "https://10.48.0.2/live/index.m3u8?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={0}&X-Amz-Signature={1}",
        "https://10.48.0.2/live/index.m3u8?sv=2022-11-02&sp=r&sig={0}",
        "https://10.48.0.2/live/index.m3u8?md5={0}&expires=1767225600",
    ),
    "wowza": (
        "rtmp://10.49.0.2/live?doConnect={0}/stream1",
        "https://10.49.0.2/live/ngrp:cam_all/playlist.m3u8?wowzatokenhash={0}&wowzatokenendtime=0",
        "rtmp://{0}:{1}@10.49.0.2/live/stream1",
        "https://10.49.0.2/live/cam.stream/playlist.m3u8?nimblesessionid={0}",
        "https://10.49.0.2/live/cam.stream/playlist.m3u8?wmsAuthSign={0}",
    ),
    "trendnet": (
        "http://10.50.0.2/cgi/mjpg/mjpeg.cgi?usr={0}&pwd={1}",
        "http://{0}:{1}@10.50.0.2/image.jpg",
        "rtsp://10.50.0.2/play1.sdp?login={0}:{1}",
        "http://10.50.0.2/goform/video?uid={0}&upw={1}",
        "http://10.50.0.2/snapshot.jpg?account={0}&passwd={1}",
    ),
    "instar": (
        "http://10.51.0.2/mjpegstream.cgi?-chn=11&-usr={0}&-pwd={1}",
        "http://10.51.0.2/tmpfs/snap.jpg?usr={0}&pwd={1}",
        "rtsp://{0}:{1}@10.51.0.2:554/11",
        "http://10.51.0.2/livestream/11?action=play&media=mjpeg&user={0}&pwd={1}",
        "http://10.51.0.2/snap.cgi?&-getpic&-usr={0}&-pwd={1}",
    ),
    "edimax and others": (
        "http://10.52.0.2/mjpg/video.mjpg#{0}",
        "http://10.52.0.2/videostream.cgi?loginuse={0}&loginpas={1}&resolution=32",
        "http://10.52.0.2:8081/?{0}:{1}",
        "http://10.52.0.2/cgi-bin/CGIProxy.fcgi?cmd=snapPicture2&usr={0}&pwd={1}",
        "rtsp://10.52.0.2:554/live/ch0?hash={0}&salt={1}",
    ),
}
# As people choose them and as machines make them: letters, digits, and both.
_KINDS = ("hunter{0}", "90{0}17", "S3cr.t{0}", "Xy{0}zzy-pass", "eyJhbGciOi{0}J9", "a1b2c3{0}f", "correct%20horse{0}")


def addresses() -> list[tuple[str, list[str]]]:
    """260 different addresses, each with the secrets in it."""
    numbers = count(4100)
    out = []
    for templates in MAKERS.values():
        for template in templates:
            used = [f"{{{place}}}" in template for place in range(3)].count(True)
            secrets = [_KINDS[next(numbers) % len(_KINDS)].format(next(numbers)) for _ in range(used)]
            out.append((template.format(*secrets), secrets))
    return out
