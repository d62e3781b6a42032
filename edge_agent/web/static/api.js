// Requests to the server of this page.

const PATIENCE_MS = 5000;
// `ask` waits as long as a board may take; the server ends it.
const ASK_PATIENCE_MS = 600_000;

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

// `ask` shows the form for the password again, and says whether the user is logged in then.
export function onLoginAgain(ask) {
  askAgain = ask;
}

export function get(path, values = {}) {
  return request(addressOf(path, values), { signal: AbortSignal.timeout(PATIENCE_MS) });
}

export function addressOf(path, values = {}) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value != null && value !== ""));
  return query.size ? `api/v1/${path}?${query}` : `api/v1/${path}`;
}

// A write whose right has ended asks for the password and is then sent again, so what was chosen is not lost.
export async function post(path, body) {
  return postText(path, JSON.stringify(body), "application/json", PATIENCE_MS);
}

export async function postText(path, text, type, patience = ASK_PATIENCE_MS) {
  const send = () =>
    request(`api/v1/${path}`, {
      method: "POST",
      body: text,
      headers: { "Content-Type": type, "X-Edge-Agent": "1" },
      signal: AbortSignal.timeout(patience),
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
