// The overlay's options, from its query; docs/overlay.md describes them.

const query = new URLSearchParams(location.search);

function number(name, fallback, min, max) {
  const value = Number.parseFloat(query.get(name));
  return Number.isFinite(value) ? Math.min(max, Math.max(min, value)) : fallback;
}

function flag(name, fallback) {
  const value = query.get(name);
  return value === null ? fallback : !["0", "false", "no", "off"].includes(value);
}

function color(name) {
  const value = query.get(name);
  if (value === null) return null;
  const given = /^([0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$/i.test(value) ? `#${value}` : value;
  return CSS.supports("color", given) ? given : null;
}

function position() {
  const words = (query.get("position") ?? "bottom").split("-");
  const pick = (names, fallback) => names.find((name) => words.includes(name)) ?? fallback;
  return { vertical: pick(["top", "middle", "bottom"], "bottom"), horizontal: pick(["left", "right", "center"], "center") };
}

const streams = query.getAll("stream").flatMap((value) => value.split(",")).filter(Boolean);

export const options = {
  streams,
  size: query.has("size") ? number("size", 40, 8, 400) : null,
  lines: Math.round(number("lines", 2, 1, 10)),
  holdMs: 1000 * number("hold", 5, 0.5, 3600),
  named: flag("name", streams.length !== 1),
  interim: flag("interim", true),
  color: color("color"),
  background: color("background"),
  ...position(),
  doubt: flag("doubt", true),
  speak: flag("speak", false),
  lang: query.get("lang") ?? "en",
  rate: query.has("rate") ? number("rate", 1, 0.5, 2) : null,
  voice: query.get("voice"),
};
