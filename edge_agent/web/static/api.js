// Requests to this page's server.

const TIMEOUT_MS = 5000;
// A board may take long; the server ends the request.
const ASK_TIMEOUT_MS = 600_000;

let askAgain = async () => false;

class Refusal extends Error {
  constructor(status, error, retryAfter, body) {
    super(error?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
    this.retryAfter = retryAfter;
    this.body = body;
  }
}

// `ask` shows the password dialog, and resolves to whether the user is logged in.
export function onLoginAgain(ask) {
  askAgain = ask;
}

export function get(path, values = {}) {
  return request(addressOf(path, values), { signal: AbortSignal.timeout(TIMEOUT_MS) });
}

export function addressOf(path, values = {}) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value != null && value !== ""));
  return query.size ? `api/v1/${path}?${query}` : `api/v1/${path}`;
}

// If the password is needed again, the write is repeated after it, so nothing is lost.
export async function post(path, body) {
  return postText(path, JSON.stringify(body), "application/json", TIMEOUT_MS);
}

export async function postText(path, text, type, timeout = ASK_TIMEOUT_MS) {
  const send = () =>
    request(`api/v1/${path}`, {
      method: "POST",
      body: text,
      headers: { "Content-Type": type, "X-Edge-Agent": "1" },
      signal: AbortSignal.timeout(timeout),
    });
  try {
    return await send();
  } catch (error) {
    if (error.code !== "login_again" || !(await askAgain())) throw error;
    return send();
  }
}

async function request(address, options) {
  const answer = await fetch(address, { cache: "no-store", credentials: "same-origin", ...options });
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  throw new Refusal(answer.status, body?.error, Number(answer.headers.get("Retry-After")) || null, body);
}
