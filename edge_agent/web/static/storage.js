// What this browser remembers. Everything works without it.

export function saved(name) {
  try {
    return localStorage.getItem(`edge-agent.${name}`);
  } catch {
    return null;
  }
}

export function save(name, value) {
  try {
    localStorage.setItem(`edge-agent.${name}`, value);
  } catch {
    // Private windows may refuse it.
  }
}
