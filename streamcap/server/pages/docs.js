// Shows openapi.json as a page; nothing is fetched from any other host.

import { address } from "./service.js";

const api = document.getElementById("api");
const contents = document.getElementById("contents");

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Text in which parts between backticks become code.
function prose(text, tag = "p") {
  const made = element(tag);
  for (const [index, part] of text.split("`").entries()) made.append(index % 2 ? element("code", part) : part);
  return made;
}

function typeName(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.type === "array") return `list of ${typeName(schema.items)}`;
  return schema.type ?? "any";
}

function table(rows, heads) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const text of heads) {
    const cell = element("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const text of row) line.append(prose(text, "td"));
  }
  return made;
}

// A JSON body from the examples of the schema.
function example(schema) {
  const name = schema?.$ref?.split("/").pop();
  const fields = Object.entries(spec.components.schemas[name]?.properties ?? {});
  const given = fields.map(([field, one]) => [field, (one.examples ?? one.anyOf?.[0]?.examples)?.[0]]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

// The operation as a curl command.
function command(path, method, body) {
  const url = `${address("")}${path.slice(1)}`.replace("{name}", "door").replace("{session}", "SESSION");
  const words = ["curl"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  const [[type, content] = []] = Object.entries(body);
  if (type === "application/json") words.push("--json", `'${JSON.stringify(example(content.schema))}'`);
  else if (type) words.push("-H", `'Content-Type: ${type}'`, "--data-binary", "@offer.sdp");
  if (path.startsWith("/captions/")) words.push("-N");
  return [...words, url.replace("{segment}", "0")].join(" ");
}

function operation(path, method, one) {
  const section = element("section", "", "operation");
  const title = element("h3");
  title.append(element("span", method.toUpperCase(), `method ${method}`), " ", element("code", path));
  section.append(title);
  if (one.description) section.append(prose(one.description));
  const parameters = (one.parameters ?? []).map((parameter) => [
    `\`${parameter.name}\``,
    parameter.in,
    typeName(parameter.schema),
    parameter.description ?? parameter.schema?.description ?? "",
  ]);
  if (parameters.length) section.append(table(parameters, ["parameter", "in", "type", "meaning"]));
  const body = one.requestBody?.content ?? {};
  for (const [type, content] of Object.entries(body)) {
    section.append(prose(`Body: \`${type}\`${content.schema ? `, ${typeName(content.schema)}` : ""}`));
  }
  // The framework lists 422; this service responds with 400.
  const answers = Object.entries(one.responses ?? {})
    .filter(([code]) => code !== "422")
    .map(([code, answer]) => {
      const shapes = Object.entries(answer.content ?? {}).map(([type, { schema }]) =>
        schema && Object.keys(schema).length ? `\`${type}\`: ${typeName(schema)}` : `\`${type}\``,
      );
      const text = answer.description === "Successful Response" ? "" : (answer.description ?? "");
      return [code, shapes.join(", ") || "no body", text];
    });
  section.append(table(answers, ["status", "content type", "meaning"]));
  const block = element("pre");
  block.append(element("code", command(path, method, body)));
  section.append(block);
  return section;
}

function schemas(all) {
  const section = element("section");
  section.id = "schemas";
  section.append(element("h2", "Schemas"));
  for (const [name, schema] of Object.entries(all)) {
    if (name.includes("ValidationError")) continue;
    section.append(element("h3", name));
    const rows = Object.entries(schema.properties ?? {}).map(([field, one]) => [
      `\`${field}\``,
      typeName(one),
      one.description ?? "",
    ]);
    section.append(table(rows, ["field", "type", "meaning"]));
  }
  return section;
}

function link(section, text) {
  const made = element("a", text);
  made.href = `#${section.id}`;
  contents.append(" ", made);
}

for (const one of document.querySelectorAll("[data-base]")) {
  const base = address("");
  base.protocol = base.protocol.replace("http", one.dataset.base);
  one.textContent = base;
}
const spec = await (await fetch(address("openapi.json"))).json();
document.title = `${spec.info.title} ${spec.info.version} API`;
const groups = new Map();
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, one] of Object.entries(methods)) {
    const tag = one.tags?.[0] ?? "other";
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push(operation(path, method, one));
  }
}
for (const [tag, operations] of groups) {
  const section = element("section");
  section.id = `tag-${tag}`;
  const title = tag[0].toUpperCase() + tag.slice(1);
  section.append(element("h2", title), ...operations);
  api.append(section);
  link(section, title);
}
const shapes = schemas(spec.components?.schemas ?? {});
api.append(shapes);
link(shapes, "Schemas");
