/* The access token lives in memory only; the refresh token lasts as long as the tab. */

const REFRESH_KEY = "shopkeeper.refresh";
let accessToken = null;
let refreshing = null;

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || "Something went wrong.");
    this.status = status;
    this.code = problem.code || "";
    this.problem = problem;
  }
}

export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const signedIn = () => accessToken !== null;

function keep(tokens) {
  accessToken = tokens.access_token;
  if (tokens.refresh_token) sessionStorage.setItem(REFRESH_KEY, tokens.refresh_token);
}

export function forget() {
  accessToken = null;
  sessionStorage.removeItem(REFRESH_KEY);
}

async function send(path, options) {
  const headers = new Headers(options.headers);
  if (accessToken) headers.set("Authorization", `Bearer ${accessToken}`);
  try {
    return await fetch(path, { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { detail: "The shop cannot be reached. Check the connection." });
  }
}

/** Renew the access token; concurrent callers share one renewal, since the token rotates. */
export function renew() {
  const token = sessionStorage.getItem(REFRESH_KEY);
  if (!token) return Promise.resolve(false);
  refreshing ??= (async () => {
    try {
      const response = await fetch("/v1/auth/refresh", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ refresh_token: token }),
      });
      if (response.ok) {
        keep(await response.json());
        return true;
      }
      if (response.status < 500 && response.status !== 429) forget();
      return false;
    } catch {
      return false;
    } finally {
      refreshing = null;
    }
  })();
  return refreshing;
}

/** Fetch with the bearer token, renewed once if it expired. Throws `ApiError` on any failure. */
export async function request(path, options = {}) {
  let response = await send(path, options);
  if (response.status === 401 && accessToken && (await renew())) response = await send(path, options);
  if (!response.ok) throw new ApiError(response.status, await problem(response));
  return response;
}

async function problem(response) {
  try {
    return await response.json();
  } catch {
    return { detail: `The shop answered ${response.status}.` };
  }
}

export async function get(path) {
  return (await request(path)).json();
}

export async function call(method, path, body) {
  const response = await request(path, {
    method,
    headers: { "Content-Type": "application/json", "Idempotency-Key": randomId() },
    body: JSON.stringify(body ?? {}),
  });
  return response.status === 204 ? null : response.json();
}

export async function signIn(email, password) {
  keep(await call("POST", "/v1/auth/login", { email, password }));
}

export async function register(email, password, name) {
  await call("POST", "/v1/auth/register", { email, password, name });
  await signIn(email, password);
}

export async function signOut() {
  const token = sessionStorage.getItem(REFRESH_KEY);
  try {
    if (token) await call("POST", "/v1/auth/logout", { refresh_token: token });
  } finally {
    forget();
  }
}
