// Where the service is, and the token that this tab uses. Every address is relative to these pages, because a proxy may
// serve them under a path of its own.

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

// The page's token: taken out of the address, so that it is not shared with a copied link, and kept for this tab.
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

// What the visitor chose in this browser, as JSON; a browser may forbid storage.
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
    // The choice lasts as long as the page.
  }
}

// The one line of reason in an answer that is not ok.
export async function errorText(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  return detail ?? `${answer.status} ${answer.statusText}`;
}
