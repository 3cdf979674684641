/** Render the API reference in the browser from /openapi.json, which the server generates from its routes. */

const api = await fetch("/openapi.json").then((response) => response.json());

function element(name, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
}

const mutedText = (text) => element("div", { className: "muted" }, text);
const tableOf = (rows) => element("table", {}, element("tbody", {}, ...rows));
const row = (name, ...content) => element("tr", {}, element("td", {}, name), element("td", {}, ...content));

const refName = (ref) => ref.split("/").pop();
const resolve = (schema) => (schema?.$ref ? api.components.schemas[refName(schema.$ref)] : schema) ?? {};

/** Describe the type of a schema, such as `string`, `list of Device` or `urgent | normal`. */
function typeText(schema) {
  if (!schema) return "";
  if (schema.$ref) return refName(schema.$ref);
  const alternatives = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (alternatives) return alternatives.map(typeText).filter(Boolean).join(" | ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeText(schema.items)}`;
  return [].concat(schema.type ?? "any").join(" | ") + (schema.format ? ` (${schema.format})` : "");
}

function propertyTable(schema) {
  const { properties, required } = resolve(schema);
  if (!properties) return null;
  const rows = Object.entries(properties).map(([name, property]) =>
    row(
      name,
      typeText(property),
      required?.includes(name) ? "" : element("span", { className: "muted" }, " optional"),
      property.description ? mutedText(property.description) : "",
    ),
  );
  return tableOf(rows);
}

function parameterTable(parameters) {
  if (!parameters?.length) return "";
  const rows = parameters.map(({ name, in: location, schema, description }) =>
    row(name, `${location}: ${typeText(schema)}`, mutedText(description ?? schema?.description ?? "")),
  );
  return tableOf(rows);
}

function responseTable(responses) {
  const rows = Object.entries(responses).map(([status, { description, content }]) => {
    const schema = Object.values(content ?? {})[0]?.schema;
    return row(status, `${description}${schema ? `: ${typeText(schema)}` : ""}`);
  });
  return tableOf(rows);
}

function operationArticle(method, path, operation) {
  const { operationId, summary, description, parameters, requestBody, responses } = operation;
  const body = requestBody?.content["application/json"]?.schema;
  const bodyTitle = element("summary", {}, `Request body: ${typeText(body)}`);
  return element(
    "article",
    { id: operationId },
    element("h3", {}, element("b", {}, method.toUpperCase()), ` ${path}`),
    element("p", {}, summary),
    description ? element("p", { className: "muted" }, description) : "",
    parameterTable(parameters),
    body ? element("details", { open: true }, bodyTitle, propertyTable(body) ?? "") : "",
    element("details", {}, element("summary", {}, "Responses"), responseTable(responses)),
  );
}

function modelArticle(name, schema) {
  return element(
    "article",
    { id: name },
    element("h3", {}, name),
    element("p", { className: "muted" }, schema.description ?? ""),
    propertyTable(schema) ?? element("pre", {}, JSON.stringify(schema, null, 1)),
  );
}

/** All operations by their tag, as [method, path, operation]. */
function operationsByTag() {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags;
      groups.set(tag, [...(groups.get(tag) ?? []), [method, path, operation]]);
    }
  }
  return groups;
}

const operations = document.getElementById("operations");
const contents = document.getElementById("contents");
const link = (href, text) => element("a", { href }, text);

operations.replaceChildren();
for (const [tag, group] of operationsByTag()) {
  const title = tag[0].toUpperCase() + tag.slice(1);
  operations.append(element("h2", { id: tag }, title), ...group.map((operation) => operationArticle(...operation)));
  const links = group.map(([method, path, { operationId }]) =>
    link(`#${operationId}`, `${method.toUpperCase()} ${path}`),
  );
  contents.append(element("h2", {}, tag), ...links);
}
const models = Object.entries(api.components.schemas).map(([name, schema]) => modelArticle(name, schema));
operations.append(element("h2", { id: "models" }, "Models"), ...models);
contents.append(element("h2", {}, "more"), link("#models", "Models"), link("/docs/errors", "Errors"));
if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
