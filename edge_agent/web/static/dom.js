// The only place that creates elements. Texts are inserted as text nodes and attribute values, never as markup.
//
// A screen describes its elements with `h`, and `draw` changes only what differs. Nodes with the same `key` are kept and
// moved, so focus, selection and typed text survive each redraw.

const described = new WeakMap();

export function h(tag, props, ...children) {
  return {
    tag,
    props: props ?? {},
    children: children.flat(Infinity).filter((child) => child != null && child !== false),
  };
}

// Makes the children of `parent` match `children`.
export function draw(parent, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child != null && child !== false);
  const kept = new Map();
  for (const node of parent.childNodes) {
    const name = nameOf(node);
    kept.set(name, [...(kept.get(name) ?? []), node]);
  }
  const nodes = wanted.map((child) => matching(kept, child) ?? created(child));
  const staying = new Set(nodes);
  for (const node of [...parent.childNodes]) if (!staying.has(node)) node.remove();
  let next = parent.firstChild;
  nodes.forEach((node, at) => {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
    update(node, wanted[at]);
  });
}

function matching(kept, child) {
  const name = typeof child === "object" ? `${child.tag} ${child.props.key ?? ""}` : "#text";
  return kept.get(name)?.shift();
}

function nameOf(node) {
  return node.nodeType === Node.TEXT_NODE ? "#text" : `${node.localName} ${described.get(node)?.key ?? ""}`;
}

function created(child) {
  return typeof child === "object" ? document.createElement(child.tag) : document.createTextNode("");
}

function update(node, child) {
  if (typeof child !== "object") {
    if (node.data !== String(child)) node.data = child;
    return;
  }
  const before = described.get(node) ?? {};
  described.set(node, child.props);
  for (const name of Object.keys({ ...before, ...child.props }))
    if (before[name] !== child.props[name]) setProperty(node, name, child.props[name]);
  draw(node, child.children);
}

function setProperty(node, name, value) {
  if (name === "key") return;
  // A field keeps what somebody typed: its value is set only when the described value changes.
  if (name.startsWith("on") || name === "value" || name === "checked" || name === "open") node[name] = value ?? null;
  else if (name === "share") node.style.setProperty("--share", `${100 * value}%`);
  else if (value == null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}
