/** The API as one page, made in the browser from the document that the server makes from its routes. */

const api = await fetch("/openapi.json").then((response) => response.json());

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema) ?? {};

/** A schema in a few words, such as `text`, `list of Device` or `urgent | normal`. */
function words(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const several = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (several) return several.map(words).filter(Boolean).join(" | ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${words(schema.items)}`;
  return [].concat(schema.type ?? "any").join(" | ") + (schema.format ? ` (${schema.format})` : "");
}

function fields(schema) {
  const found = resolve(schema);
  if (!found.properties) return null;
  const rows = Object.entries(found.properties).map(([name, said]) =>
    element(
      "tr",
      {},
      element("td", {}, name),
      element(
        "td",
        {},
        words(said),
        found.required?.includes(name) ? "" : element("span", { className: "soft" }, " optional"),
        said.description ? element("div", { className: "soft" }, said.description) : "",
      ),
    ),
  );
  return element("table", {}, element("tbody", {}, ...rows));
}

function parameters(list) {
  if (!list?.length) return "";
  const rows = list.map(({ name, in: where, schema, description }) =>
    element(
      "tr",
      {},
      element("td", {}, name),
      element(
        "td",
        {},
        `${where}: ${words(schema)}`,
        element("div", { className: "soft" }, description ?? schema?.description ?? ""),
      ),
    ),
  );
  return element("table", {}, element("tbody", {}, ...rows));
}

function shown(method, path, operation) {
  const body = operation.requestBody?.content["application/json"]?.schema;
  const answers = Object.entries(operation.responses).map(([status, { description, content }]) => {
    const schema = Object.values(content ?? {})[0]?.schema;
    return element(
      "tr",
      {},
      element("td", {}, status),
      element("td", {}, `${description}${schema ? `: ${words(schema)}` : ""}`),
    );
  });
  return element(
    "article",
    { id: operation.operationId },
    element("h3", {}, element("b", {}, method.toUpperCase()), ` ${path}`),
    element("p", {}, operation.summary),
    operation.description ? element("p", { className: "soft" }, operation.description) : "",
    parameters(operation.parameters),
    body ? element("details", { open: true }, element("summary", {}, `Body: ${words(body)}`), fields(body) ?? "") : "",
    element("details", {}, element("summary", {}, "Answers"), element("table", {}, element("tbody", {}, ...answers))),
  );
}

const byTag = new Map();
for (const [path, operations] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    const [tag] = operation.tags;
    byTag.set(tag, [...(byTag.get(tag) ?? []), [method, path, operation]]);
  }
}
const operations = document.getElementById("operations");
const contents = document.getElementById("contents");
operations.replaceChildren();
for (const [tag, list] of byTag) {
  operations.append(
    element("h2", { id: tag }, tag[0].toUpperCase() + tag.slice(1)),
    ...list.map((one) => shown(...one)),
  );
  contents.append(
    element("h2", {}, tag),
    ...list.map(([method, path, { operationId }]) =>
      element("a", { href: `#${operationId}` }, `${method.toUpperCase()} ${path}`),
    ),
  );
}
operations.append(
  element("h2", { id: "models" }, "Models"),
  ...Object.entries(api.components.schemas).map(([name, schema]) =>
    element(
      "article",
      { id: name },
      element("h3", {}, name),
      element("p", { className: "soft" }, schema.description ?? ""),
      fields(schema) ?? element("pre", {}, JSON.stringify(schema, null, 1)),
    ),
  ),
);
contents.append(
  element("h2", {}, "more"),
  element("a", { href: "#models" }, "Models"),
  element("a", { href: "/docs/errors" }, "Errors"),
);
if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
