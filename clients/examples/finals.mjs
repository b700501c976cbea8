// In a page, or with `node finals.mjs http://127.0.0.1:8642` (Node 22 and newer have WebSocket).
const seen = new Map();
let failures = 0;
function follow(service) {
  const since = [...seen].map((one) => one.join(":")).join(",");
  const socket = new WebSocket(`${service.replace(/^http/, "ws")}/captions?interim=0${since && `&since=${since}`}`);
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    failures = 0;
    if (event.seq) seen.set(event.stream, event.seq);
    if (event.type === "caption") console.log(event.stream, event.text);
  };
  socket.onclose = () => {
    if (++failures > 5) seen.clear(); // after a restart the service may not know these numbers
    setTimeout(follow, 1000 + 1000 * Math.random(), service);
  };
}
follow(globalThis.process?.argv[2] ?? location.origin);
