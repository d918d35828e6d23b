"use strict";
const POLL_MS = 2000;
const at = (id) => document.getElementById(id);

function make(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

const number = (value) => (typeof value === "number" ? value.toLocaleString() : "–");
const share = (part, whole) => (whole > 0 ? Math.round((100 * part) / whole) + " %" : "–");

function time(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return Math.round(seconds / 3600) + " h";
}

function size(bytes) {
  if (typeof bytes !== "number") return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return (unit ? bytes.toFixed(1) : bytes) + " " + units[unit];
}

function facts(id, rows) {
  at(id).replaceChildren(...rows.flatMap(([name, text, kind]) => [make("dt", name), make("dd", text, kind)]));
}

function quota(state) {
  const rows = (state.windows || []).map((one) => {
    const row = make("div", undefined, "window");
    const line = make("p");
    line.append(make("span", one.remaining + " of " + one.limit + " left per " + one.name), make("span", "more in " + time(one.reset_s)));
    const bar = make("progress");
    bar.max = one.limit;
    bar.value = one.remaining;
    bar.setAttribute("aria-label", "calls left per " + one.name);
    row.append(line, bar);
    return row;
  });
  if (typeof state.paused_until_s === "number") rows.push(make("p", "Paused by the upstream for " + time(state.paused_until_s), "warn"));
  rows.push(make("p", state.shared ? "Shared with other gateways" : "Counted by this process alone"));
  at("quota").replaceChildren(...rows);
}

function regions(list) {
  at("regions").replaceChildren(...(list || []).map((one) => {
    const row = make("tr");
    const word = one.selected ? "in use" : one.healthy ? "healthy" : "failing";
    const rtt = typeof one.rtt_ms === "number" ? one.rtt_ms.toFixed(1) + " ms" : "–";
    row.append(make("td", one.name), make("td", word, one.healthy ? "good" : "bad"), make("td", rtt, "number"));
    row.title = one.url || "";
    return row;
  }));
}

function show(state) {
  const { queue = {}, cache = {}, token = {}, saved = {} } = state;
  at("summary").textContent = "Version " + state.version + " · " + state.mode + " · up " + time(state.uptime_s);
  at("summary").className = state.mode === "normal" ? "" : "warn";
  quota(state.quota || {});
  regions(state.regions);
  facts("queue", [["Waiting", number(queue.waiting)], ["Callers", number(queue.callers)], ["Wait for a new request", time(queue.predicted_wait_s)]]);
  facts("cache", [["Entries", number(cache.entries)], ["Size", size(cache.bytes)], ["Hits", number(cache.hits)],
    ["Misses", number(cache.misses)], ["Stale", number(cache.stale)]]);
  const valid = typeof token.expires_in_s === "number" && token.expires_in_s > 0;
  facts("token", [["Kind", token.kind || "–"], ["Valid for", valid ? time(token.expires_in_s) : "none", valid ? "good" : "bad"],
    ["Refresh", token.refreshing ? "running" : "–"], ["Last error", token.last_error || "none", token.last_error ? "bad" : ""]]);
  facts("saved", [["Requests", number(saved.requests)], ["Upstream calls", number(saved.upstream_calls)],
    ["Answered without a call", share(saved.requests - saved.upstream_calls, saved.requests)]]);
}

async function poll() {
  try {
    if (!document.hidden) {
      const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error("status " + answer.status);
      show(await answer.json());
      document.body.classList.remove("stale");
    }
  } catch (error) {
    document.body.classList.add("stale");
    at("summary").textContent = "The gateway does not answer (" + error.message + "); these figures are old.";
    at("summary").className = "bad";
  }
  setTimeout(poll, POLL_MS);
}

poll();
