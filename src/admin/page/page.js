const POLL_MS = 2000;
const HISTORY_EVERY = 5;
const at = (id) => document.getElementById(id);

function make(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

const number = (value) => (typeof value === "number" ? value.toLocaleString() : "–");
const words = (name) => name.replaceAll("_", " ");
const share = (part, whole) => (whole > 0 ? Math.round((100 * part) / whole) + " %" : "–");

function time(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " d";
}

function size(bytes) {
  if (typeof bytes !== "number") return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return (unit ? bytes.toFixed(1) : bytes) + " " + units[unit];
}

// What is equal stays as it is, so that nobody loses a selection or the place of a pointer or a reader.
function fill(place, parts) {
  parts.forEach((part, which) => {
    const node = typeof part === "string" ? document.createTextNode(part) : part;
    const old = place.childNodes[which];
    if (!old) place.append(node);
    else if (old.isEqualNode(node)) return;
    else if (node.childNodes.length && old.cloneNode(false).isEqualNode(node.cloneNode(false)))
      fill(old, [...node.childNodes]);
    else old.replaceWith(node);
  });
  while (place.childNodes.length > parts.length) place.lastChild.remove();
}

const say = (id, text) => fill(at(id), [text]);

// A row: name, text, class of the text, class of the colour key before the name.
function facts(id, rows) {
  fill(at(id), rows.map(([name, text, kind, key]) => {
    const row = make("div");
    const term = make("dt");
    if (key) term.append(make("span", undefined, "key " + key));
    term.append(name);
    row.append(term, make("dd", text, kind));
    return row;
  }));
}

function rows(id, list, none, cells) {
  const body = at(id).tBodies[0];
  const columns = at(id).tHead.rows[0].cells.length;
  if (!list.length) {
    const cell = make("td", none, "soft");
    cell.colSpan = columns;
    const row = make("tr");
    row.append(cell);
    fill(body, [row]);
    return;
  }
  fill(body, list.map((one) => {
    const row = make("tr");
    row.append(...cells(one));
    return row;
  }));
}

function bar(value, top, label, low) {
  const node = make("progress", undefined, low ? "low" : "");
  node.max = top;
  node.value = value;
  node.setAttribute("aria-label", label);
  return node;
}

function windows(state, whose) {
  const shown = (state.windows || []).map((one) => {
    const row = make("div", undefined, "window");
    const line = make("p");
    const name = one.name === "1m" ? "minute" : one.name === "1h" ? "hour" : one.name;
    line.append(make("span", `${number(one.remaining)} of ${number(one.limit)} calls left this ${name}`),
      make("span", one.remaining < one.limit ? "more in " + time(one.reset_s) : "all of it"));
    row.append(line, bar(one.remaining, one.limit, `calls left per ${name}${whose}`, one.remaining * 5 < one.limit));
    return row;
  });
  if (state.pace) {
    const row = make("div", undefined, "window");
    const line = make("p");
    const tokens = Math.floor(state.pace.tokens);
    line.append(make("span", `${number(tokens)} of ${number(state.pace.capacity)} calls may leave at once`),
      make("span", `${number(Math.round(state.pace.per_minute))} more a minute`));
    row.append(line, bar(tokens, state.pace.capacity, "calls that may leave at once" + whose, tokens * 5 < state.pace.capacity));
    shown.push(row);
  }
  return shown;
}

// What goes on beside the windows, and whether any of it is worth a look.
function doings(state, ...first) {
  const notes = [...first, `${number(state.in_flight)} in flight`];
  if (state.foreign_calls) notes.push(`${number(state.foreign_calls)} calls by others on the same app registration, as estimated`);
  const paused = typeof state.paused_until_s === "number";
  if (paused) notes.unshift("Paused by the upstream for another " + time(state.paused_until_s));
  return { notes, warns: paused || state.foreign_calls > 0 };
}

// Where each operation is counted by itself, the figures of all of them would be nobody's.
function quota(state, mode) {
  const operations = Object.entries(state.operations || {});
  fill(at("windows"), operations.length ? operations.map(([name, one]) => {
    const part = make("div", undefined, "operation");
    const { notes, warns } = doings(one);
    const known = words(name);
    part.append(make("h3", known), ...windows(one, ", " + known), make("p", notes.join(" · "), "soft" + (warns ? " warn" : "")));
    return part;
  }) : windows(state, ""));
  const whose = state.shared ? `Shared by ${number(state.replicas)} gateways` : "Counted by this process alone";
  const { notes, warns } = operations.length ? { notes: [whose], warns: false } : doings(state, whose);
  if (mode === "store-lost") notes.unshift("No call leaves: the store does not answer");
  say("quota-notes", notes.join(" · "));
  at("quota-notes").classList.toggle("warn", mode === "store-lost" || warns);
}

function regions(list) {
  const slowest = Math.max(1, ...list.map((one) => one.rtt_ms ?? 0));
  const order = [...list].sort((a, b) => b.selected - a.selected || (a.rtt_ms ?? Infinity) - (b.rtt_ms ?? Infinity));
  rows("regions", order, "No region is known.", (one) => {
    const word = !one.healthy ? `left: ${one.left_for ?? "for a moment"}` : one.selected ? "in use" : "healthy";
    const known = typeof one.rtt_ms === "number";
    const distance = make("td", undefined, "bar");
    if (known) distance.append(bar(one.rtt_ms, slowest, `round trip to ${one.name}`));
    return [make("td", one.name), make("td", word, one.healthy ? "good" : "bad"),
      make("td", known ? one.rtt_ms.toFixed(1) + " ms" : "–", "number"), distance, make("td", (one.url || "").replace(/^https?:\/\//, ""), "id")];
  });
}

function queue(state, connections) {
  const others = state.waiting_with_callers_tokens ? [["With tokens of their own", number(state.waiting_with_callers_tokens)]] : [];
  facts("queue", [["Waiting", number(state.waiting)], ...others, ["Callers", number(state.callers)],
    ["A newcomer would wait", time(state.predicted_wait_s)],
    ["Connections", `${number(connections.open)} of ${number(connections.most)}`]]);
  rows("callers", (state.shares || []).slice(0, 12), "Nobody has had to wait.", (one) => [make("td", one.caller, "id"),
    make("td", number(one.waiting), "number"), make("td", time(one.next_turn_s), "number"),
    make("td", time(one.last_turn_s), "number"), make("td", number(one.served), "number")]);
}

// Whether requests share calls, and why.
function merging(state) {
  const rests = typeof state.rests_for_s === "number" ? [["Merging rests", `for ${time(state.rests_for_s)}: ${state.rests_because}`, "warn"]] : [];
  return [...mergingMode(state), ...rests];
}

function mergingMode(state) {
  if (state.mode !== "auto") return [["Merging", state.mode || "–"]];
  const found = state.evidence || [];
  if (!found.length) return [["Merging", "not yet: no answers were compared"]];
  return found.map((one) => [`Merging ${words(one.operation)}${one.version === "latest" ? "" : " " + one.version}`,
    one.says, one.state === "merging" ? "good" : one.state === "not-merging" ? "warn" : ""]);
}

function saved(state, merge) {
  const by = state.by || {};
  say("saved-share", share(state.requests - (by.forwarded || 0) - (by.partial || 0), state.requests));
  facts("saved", [...merging(merge), ["From a cache", number(by.hit), "", "memory"], ["From a cache, stale", number(by.stale), "", "memory"],
    ["Joined a call", number(by.collapsed), "", "shared"], ["Merged into a call", number(by.merged), "", "shared"],
    ["Asked for a part only", number(by.partial), "", "own"], ["A call of its own", number(by.forwarded), "", "own"],
    ["Requests", number(state.requests)], ["Upstream calls", number(state.upstream_calls)],
    ["Per call, in ten minutes", state.per_call ? `${number(state.per_call.now)}; ${number(state.per_call.best)} with full calls` : "–"]]);
}

function token(state) {
  const error = state.last_error;
  const valid = typeof state.expires_in_s === "number" && state.expires_in_s > 0;
  facts("token", [["Credential", words(state.kind || "–")],
    ["Token", valid ? "good for " + time(state.expires_in_s) : "none", valid ? "good" : "bad"],
    ["Renewal", state.refreshing ? "under way" : error ? "again in " + time(error.retry_in_s) : "not due"]]);
  const notes = [...(error ? [`${error.code}: ${error.advice || error.message}`] : []), ...(state.warnings || [])];
  say("token-notes", notes.join(" "));
  at("token-notes").className = error ? "bad" : "warn";
}

// What is wrong, the worst first, and what to do about it.
function problems(list) {
  at("banner").hidden = !list.length;
  at("banner").className = "wide" + (list.some((one) => one.severity === "critical") ? " critical" : "");
  // Heard by those who do not see the page, and only when it changes: counts and times would be read
  // out again and again.
  say("announced", list.length ? "Problems: " + list.map((one) => one.code).sort().join(", ") : "No problems");
  fill(at("problems"), list.map((one) => {
    const item = make("li");
    const line = make("p", undefined, "what");
    line.append(make("span", one.code, one.severity === "critical" ? "bad" : "warn"), " " + one.message);
    item.append(line, make("p", `For ${time(one.since_s)}. What to do: ${one.advice}.`, "soft"));
    return item;
  }));
}

// On a narrow screen a table is wider than its place, which nobody sees who does not try.
function hints() {
  for (const box of document.querySelectorAll(".scroll")) box.nextElementSibling.hidden = box.scrollWidth <= box.clientWidth + 1;
}

// The same thing over and over is one row, as of the latest. Seconds and counts in its reason do not make it another thing.
function alike(list) {
  const seen = new Map();
  for (const one of list) {
    const what = one.status + " " + (one.reason || "").replace(/\d+/g, "#");
    const known = seen.get(what);
    if (known) { known.times += 1; known.callers.add(one.caller); } else seen.set(what, { ...one, times: 1, callers: new Set([one.caller]) });
  }
  return [...seen.values()];
}

const callers = (one) => (one.callers.size > 1 ? `${one.caller} and ${one.callers.size - 1} more` : one.caller) + (one.peer === one.caller ? "" : ` (${one.peer})`);

function show(state) {
  const { cache = {}, trouble = {} } = state;
  say("mode", state.mode);
  const critical = (state.problems || []).some((one) => one.severity === "critical");
  at("mode").className = "badge " + (state.mode === "normal" ? "good" : critical ? "bad" : "warn");
  const whose = [state.host, state.tenant && "tenant " + state.tenant, state.cloud && "cloud " + state.cloud].filter(Boolean).join(" · ");
  say("whose", whose);
  document.title = [whose, "defender-gateway"].filter(Boolean).join(" – ");
  problems(state.problems || []);
  say("summary", `version ${state.version}, up ${time(state.uptime_s)}`);
  quota(state.quota || {}, state.mode);
  queue(state.queue || {}, state.connections || {});
  regions(state.regions || []);
  saved(state.saved || {}, state.merge || {});
  token(state.token || {});
  facts("cache", [["Hits", number(cache.hits)], ["Misses", number(cache.misses)], ["Stale", number(cache.stale)],
    ["Entries", number(cache.entries)], ["Memory", size(cache.bytes)]]);
  rows("trouble", alike(trouble.latest || []).slice(0, 12), "None since the start.", (one) => [make("td", time(one.ago_s), "number"),
    make("td", number(one.times), "number"), make("td", String(one.status), "number " + (one.status >= 500 ? "bad" : "warn")),
    make("td", callers(one), "id"), make("td", one.operation || one.target, "id"),
    make("td", one.reason || one.outcome, "text"), make("td", one.request_id, "id")]);
  hints();
}

function history(past, quota) {
  const windows = quota.windows || [];
  const total = (name) => minutes(past[name] || [], past.step_s, sum);
  const peak = (list) => number(Math.max(0, ...list.map((value) => value ?? 0)));
  const key = (kind, text) => { const part = make("span", undefined, "part"); part.append(make("span", undefined, "key " + kind), text + " "); return part; };
  const put = (id, svg, ...text) => { fill(at(id), [svg]); fill(at(id + "-text"), text); };
  const series = [["memory", total("from_memory")], ["shared", total("shared_call")], ["own", total("own_call")],
    ["refused", total("refused")], ["failed", total("failed")], ["invalid", total("invalid")], ["gone", total("gone")]];
  const count = ([, list]) => number(sum(list.map((value) => value ?? 0)));
  put("answered", bars(series, "requests by minute"),
    ...["from a cache", "with a shared call", "with a call of their own", "refused", "failed", "invalid", "hung up"].map((what, which) => key(series[which][0], `${count(series[which])} ${what}`)));
  const calls = total("upstream_calls");
  put("calls", bars([["one", calls]], "upstream calls by minute"), `${count(["", calls])} calls, ${peak(calls)} in the busiest minute`);
  const waiting = minutes(past.waiting || [], past.step_s, (list) => Math.max(...list));
  put("waiting", bars([["one", waiting]], "most waiting by minute"), `${peak(waiting)} at the most, looked at every ${past.step_s} s`);
  const left = windows.map((one, which) => [["first", "second", "third", "fourth"][which % 4], minutes((past.remaining || []).map((row) => row[which] ?? null), past.step_s, last), one.limit]);
  const lowest = windows.map((one, which) => {
    const known = left[which][1].filter((value) => value !== null);
    return key(left[which][0], `${one.name}: ${known.length ? number(Math.min(...known)) : "–"} of ${number(one.limit)} at the lowest`);
  });
  put("left", lines(left, "quota left, in percent"), quota.operations ? "In percent, of the operation with the fewest. " : "In percent. ", ...lowest);
}

let round = 0;
let timer;

// No answer came, or not all of it.
class Unanswered extends Error {}

async function ask(path) {
  const cut = (error) => { throw new Unanswered(`The gateway does not answer (${error.message})`); };
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) }).catch(cut);
  const text = await answer.text().catch(cut);
  if (!answer.ok) throw new Error("status " + answer.status);
  return JSON.parse(text);
}

// Without the hour the rest is worth showing. What is drawn already ends earlier than its axis says.
async function lastHour(quota) {
  let why = "";
  try {
    history(await ask("/history"), quota);
  } catch (error) {
    why = `The last hour cannot be shown (${error.message}).`;
  }
  say("hour-notes", why);
  document.querySelector(".charts").classList.toggle("old", why !== "");
}

async function poll() {
  clearTimeout(timer);
  try {
    if (!document.hidden) {
      const state = await ask("/status");
      show(state);
      if (round % HISTORY_EVERY === 0) await lastHour(state.quota || {});
      round += 1;
      document.body.classList.remove("stale");
    }
  } catch (error) {
    document.body.classList.add("stale");
    const unanswered = error instanceof Unanswered;
    const why = unanswered ? error.message : `The gateway's answer cannot be shown (${error.message})`;
    say("mode", unanswered ? "no answer" : "unknown");
    at("mode").className = "badge bad";
    say("summary", `${why}; these figures are old.`);
    say("announced", why);
    round = 0;
  }
  timer = setTimeout(poll, POLL_MS);
}

addEventListener("resize", hints);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
poll();
