"""HTTP, websocket, server-sent events, WHIP and WHEP, pages, tokens, metrics; knows neither models nor pixels."""
