const list = document.getElementById("streams");
const items = new Map();

function item(name) {
  if (!items.has(name)) {
    const li = document.createElement("li");
    const state = document.createElement("em");
    const text = document.createElement("p");
    li.append(name, " ", state, text);
    list.append(li);
    items.set(name, { state, text });
  }
  return items.get(name);
}

const token = new URLSearchParams(location.search).get("token");
const url = new URL("/captions", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
if (token) url.searchParams.set("token", token);
new WebSocket(url).onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "status") item(event.stream).state.textContent = `${event.state} ${event.reason}`;
  if (event.type === "caption") item(event.stream).text.textContent = event.text;
};
