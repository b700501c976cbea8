// Calls to the service with this tab's token.

import { address, authorization, errorText, storeToken, takeToken } from "./service.js";

export class Api {
  // `onToken(message)`: the service requires a token, or rejected this one.
  constructor(onToken) {
    this.token = takeToken();
    this.onToken = onToken;
  }

  get headers() {
    return authorization(this.token);
  }

  setToken(token) {
    this.token = token;
    storeToken(token);
  }

  async fetch(path, options = {}) {
    let answer;
    try {
      answer = await fetch(address(path), { ...options, headers: { ...this.headers, ...options.headers } });
    } catch {
      throw new Error("The service does not answer.");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      const message = this.token ? "This token is not accepted. Check it for typing mistakes." : "";
      this.onToken(message);
      throw new Error(message || "This service needs a token.");
    }
    const text = await errorText(answer);
    throw new Error(answer.status === 403 && /token/.test(text) ? "Your token lets you watch, not change anything." : text);
  }

  send(method, path, body) {
    const options = { method };
    if (body !== undefined) {
      options.headers = { "Content-Type": "application/json" };
      options.body = JSON.stringify(body);
    }
    return this.fetch(path, options);
  }
}
