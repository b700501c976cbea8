// The address of the service and the token of this tab. All addresses are relative to these pages, because a proxy may
// serve them under a path prefix.

const BASE = new URL("../", import.meta.url);

// The full address of `path`, which has no leading slash.
export const address = (path) => new URL(path, BASE);

export const authorization = (token) => (token ? { Authorization: `Bearer ${token}` } : {});

export function readToken() {
  return sessionStorage.getItem("streamcap.token") ?? "";
}

export function storeToken(token) {
  sessionStorage.setItem("streamcap.token", token);
}

// The page's token: removed from the URL, so that copied links do not contain it, and stored for this tab.
export function takeToken() {
  const here = new URL(location.href);
  const token = here.searchParams.get("token");
  if (token !== null) {
    storeToken(token);
    here.searchParams.delete("token");
    history.replaceState(null, "", here);
  }
  return readToken();
}

// Settings of the visitor, as JSON; a browser may forbid storage.
export function recall(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`streamcap.${key}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(`streamcap.${key}`, JSON.stringify(value));
  } catch {
    // The setting is lost when the page closes.
  }
}

// The reason in an error response.
export async function errorText(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  return detail ?? `${answer.status} ${answer.statusText}`;
}
