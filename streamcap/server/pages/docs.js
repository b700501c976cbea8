// Shows /openapi.json as a page; nothing is fetched from any other host.

const api = document.getElementById("api");

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Text with what stands between backticks as code.
function prose(text) {
  const made = element("p");
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
    for (const text of row) line.insertCell().textContent = text;
  }
  return made;
}

function operation(path, method, spec) {
  const section = element("section", "", "operation");
  const title = element("h3");
  title.append(element("span", method.toUpperCase(), `method ${method}`), " ", element("code", path));
  section.append(title);
  if (spec.description) section.append(prose(spec.description));
  const parameters = (spec.parameters ?? []).map((one) => [
    one.name,
    one.in,
    typeName(one.schema),
    one.description ?? one.schema?.description ?? "",
  ]);
  if (parameters.length) section.append(table(parameters, ["parameter", "in", "type", ""]));
  const body = spec.requestBody?.content ?? {};
  for (const [type, content] of Object.entries(body)) {
    section.append(element("p", `Body: ${type}${content.schema ? `, ${typeName(content.schema)}` : ""}`));
  }
  const answers = Object.entries(spec.responses ?? {})
    .filter(([code]) => code !== "422")
    .map(([code, answer]) => [
      code,
      Object.keys(answer.content ?? {}).join(", "),
      answer.description === "Successful Response" ? "" : (answer.description ?? ""),
    ]);
  section.append(table(answers, ["answer", "type", ""]));
  return section;
}

function schemas(all) {
  const section = element("section");
  section.append(element("h2", "Shapes"));
  for (const [name, schema] of Object.entries(all)) {
    if (name.includes("ValidationError")) continue;
    section.append(element("h3", name));
    const rows = Object.entries(schema.properties ?? {}).map(([field, one]) => [
      field,
      typeName(one),
      one.description ?? "",
    ]);
    section.append(table(rows, ["field", "type", ""]));
  }
  return section;
}

const spec = await (await fetch("/openapi.json")).json();
document.title = `${spec.info.title} ${spec.info.version} API`;
const groups = new Map();
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, one] of Object.entries(methods)) {
    const tag = one.tags?.[0] ?? "more";
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push(operation(path, method, one));
  }
}
for (const [tag, operations] of groups) {
  const section = element("section");
  section.append(element("h2", tag[0].toUpperCase() + tag.slice(1)), ...operations);
  api.append(section);
}
api.append(schemas(spec.components?.schemas ?? {}));
