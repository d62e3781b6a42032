// What this browser remembers for its user. A browser that keeps nothing works all the same.

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
    // Private windows may refuse.
  }
}
