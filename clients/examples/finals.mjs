// In a page, or with `node finals.mjs http://127.0.0.1:8642` (Node 22 and newer have WebSocket).
let since = "";
function follow(service) {
  const socket = new WebSocket(`${service.replace(/^http/, "ws")}/captions?interim=0${since && `&since=${since}`}`);
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.seq) since = `${event.stream}:${event.seq}`;
    if (event.type === "caption") console.log(event.stream, event.text);
  };
  socket.onclose = () => setTimeout(follow, 1000 + 1000 * Math.random(), service);
}
follow(globalThis.process?.argv[2] ?? location.origin);
