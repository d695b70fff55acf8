"use strict";
// The page of a fleet. The server sends the whole state first, and changes after that.

const SAMPLES = 720, EVENTS = 300, LINKS_LISTED = 2000, COLOURS = 8;
const SIGNS = {
  lost: "×", disconnected: "×", stale: "?", unanswered: "?", absent: "–", claiming: "!", seeded: "·",
  unenrolled: "·", alert: "!", waiting: "…", ready: "", settled: "✓", done: "✓", finished: "■",
};
const ORDER = Object.keys(SIGNS);
const VIEWS = ["fleet", "rounds", "node", "events", "phases", "error"];
const byId = (id) => document.getElementById(id);
const natural = new Intl.Collator("en", {numeric: true});

const state = {nodes: new Map(), events: [], history: [], summary: null, at: 0, receivedAt: 0, source: "live", run: null, near: new Map()};
const charts = {};
let view = "fleet", chosen = null, nodeHistory = null;

// -- elements -----------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const number = (value) => value === null || value === undefined ? "-" :
  Math.abs(value) >= 1e7 ? value.toExponential(1) : String(value);
const look = (row) => row.standing === "ready" && row.settled ? "settled" : row.standing;
const words = (row) => row.state === row.standing ? row.state : `${row.state}, ${row.standing}`;

function heard(row) {
  if (row.heard_at === null) return "-";
  const elapsed = state.source === "live" ? (performance.now() - state.receivedAt) / 1000 : 0;
  return `${Math.max(0, Math.round(state.at - row.heard_at + elapsed))} s ago`;
}

// -- fleet --------------------------------------------------------------------------------------

function showHead() {
  const result = state.summary, spread = result.lowest_round === null ? null : result.highest_round - result.lowest_round;
  setText(byId("figure-nodes"), String(result.nodes));
  setText(byId("figure-settled"), state.run ? state.run.settled ? "yes" : "no" : result.settled === null ? "not reported" : `${result.settled} of ${result.nodes}`);
  setText(byId("figure-round"), result.lowest_round === null ? "-" : number(result.highest_round));
  setText(byId("figure-spread"), number(spread));
  setText(byId("figure-slowest"), result.slowest === null ? "-" : `${Math.round(result.slowest_ms)} ms`);
  setText(byId("figure-slowest-node"), result.slowest === null ? "" : result.slowest);
  showLegend();
  showSpread();
}

function showLegend() {
  const counts = new Map();
  for (const row of state.nodes.values()) counts.set(look(row), (counts.get(look(row)) || 0) + 1);
  byId("legend").replaceChildren(...ORDER.filter((name) => counts.has(name)).map((name) => {
    const dot = element("span", {className: `dot s-${name}`, textContent: SIGNS[name]});
    dot.setAttribute("aria-hidden", "true");
    return element("li", {}, dot, `${counts.get(name)} ${name}`);
  }));
}

function showSpread() {
  const present = [...state.nodes.values()].filter((row) => row.round !== null && !["lost", "disconnected", "stale"].includes(row.standing));
  const highest = Math.max(...present.map((row) => row.round));
  const counts = new Map();
  for (const row of present) counts.set(highest - row.round, (counts.get(highest - row.round) || 0) + 1);
  const gaps = [...counts.keys()].sort((a, b) => a - b);
  const shown = gaps.slice(0, 7), rest = gaps.slice(7).reduce((sum, gap) => sum + counts.get(gap), 0);
  const rows = shown.map((gap) => [gap === 0 ? "in front" : `${number(gap)} behind`, counts.get(gap)]);
  if (rest) rows.push(["further", rest]);
  byId("spread").replaceChildren(...rows.map(([name, count]) => bar(name, [[count / present.length, "c0"]], `${count} nodes`)));
}

function bar(name, parts, text) {
  const track = element("span", {className: "track"});
  for (const [share, colour] of parts) {
    const part = element("span", {className: `part ${colour}`});
    part.style.width = `${100 * share}%`;
    track.append(part);
  }
  track.setAttribute("aria-hidden", "true");
  return element("div", {className: "bar"}, element("span", {className: "name", textContent: name, title: name}), track, element("span", {textContent: text}));
}

function showGraph(svg) {
  const parsed = new DOMParser().parseFromString(svg, "image/svg+xml").documentElement;
  byId("graph").replaceWith(document.importNode(parsed, true));
  state.near = new Map();
  for (const line of document.querySelectorAll("#graph line")) {
    for (const [one, other] of [[line.dataset.a, line.dataset.b], [line.dataset.b, line.dataset.a]]) {
      if (!state.near.has(one)) state.near.set(one, []);
      state.near.get(one).push(other);
    }
  }
}

function showNodeInGraph(row) {
  const link = document.querySelector(`#graph [data-node="${CSS.escape(row.node)}"]`);
  if (!link) return;
  const settled = row.settled ? ", settled" : "";
  const label = `${row.node}: ${words(row)}${settled}, round ${number(row.round)}`;
  link.setAttribute("class", `node s-${look(row)}`);
  link.setAttribute("aria-label", label);
  setText(link.querySelector("title"), label);
  setText(link.querySelector(".sign"), SIGNS[look(row)] ?? "");
}

function markNear(name) {
  for (const line of document.querySelectorAll("#graph line")) {
    line.setAttribute("class", name !== null && (line.dataset.a === name || line.dataset.b === name) ? "near" : "");
  }
}

const tableRows = new Map();

function showTable() {
  const sorted = [...state.nodes.values()].sort((a, b) =>
    ORDER.indexOf(a.standing) - ORDER.indexOf(b.standing) || natural.compare(a.node, b.node));
  const body = document.querySelector("#table tbody");
  for (const name of tableRows.keys()) if (!state.nodes.has(name)) tableRows.delete(name);
  const rows = sorted.map(tableRow);
  if (rows.length !== body.children.length || rows.some((row, k) => body.children[k] !== row)) {
    const focused = document.activeElement;
    body.replaceChildren(...rows);
    if (focused && body.contains(focused)) focused.focus();
  }
}

function tableRow(row) {
  let shown = tableRows.get(row.node);
  if (!shown) {
    const link = element("a", {href: `#node/${row.node}`, textContent: row.node});
    shown = element("tr", {}, element("td", {}, link), ...Array.from({length: 10}, () => element("td")));
    tableRows.set(row.node, shown);
  }
  const signature = row.refused ? `${number(row.refused)} refused` : row.verified ? "good" : "unverified";
  const texts = [words(row), number(row.round), number(row.round_ms), number(row.silent), number(row.rejected),
    row.pool === null ? "-" : `${number(row.pool)}/${number(row.pool_size)}`, number(row.temperature_c),
    row.settled === null ? "-" : row.settled ? "yes" : "no", heard(row), signature];
  texts.forEach((text, k) => setText(shown.children[k + 1], text));
  shown.children[1].className = `state s-${row.standing}`;
  shown.children[10].className = row.refused ? "bad" : "";
  return shown;
}

// -- rounds, node, events -----------------------------------------------------------------------

function chart(name, series, options) {
  return charts[name] ??= new Chart(byId(`chart-${name}`), series, options);
}

function showRounds() {
  if (state.run) {
    chart("times", [{label: "median", colour: "c0"}, {label: "slowest", colour: "c1"}], {time: false})
      .set([state.run.rounds, state.run.median_ms, state.run.worst_ms]);
    return;
  }
  const at = state.history.map((each) => each.at);
  const column = (field, factor = 1) => state.history.map((each) => each[field] === null ? null : each[field] * factor);
  chart("times", [{label: "median", colour: "c0"}, {label: "slowest", colour: "c1"}]).set([at, column("median_ms"), column("worst_ms")]);
  chart("silent", [{label: "silent", colour: "c7"}], {whole: true}).set([at, column("silent")]);
  chart("pool", [{label: "lowest pool, %", colour: "c5"}]).set([at, column("pool", 100)]);
}

function showNode() {
  const names = [...state.nodes.keys()].sort(natural.compare), choice = byId("node-choice");
  if (choice.options.length !== names.length || names.some((name, k) => choice.options[k].value !== name)) {
    choice.replaceChildren(...names.map((name) => element("option", {value: name, textContent: name})));
  }
  if (!state.nodes.has(chosen)) chosen = names[0] ?? null;
  if (chosen === null) return;
  choice.value = chosen;
  const row = state.nodes.get(chosen);
  const figures = [["State", words(row)], ["Round", number(row.round)], ["Phase", row.phase ?? "-"], ["Round time", row.round_ms === null ? "-" : `${Math.round(row.round_ms)} ms`],
    ["Settled", row.settled === null ? "not reported" : row.settled ? "yes" : "no"], ["Missed answers", number(row.missed)],
    ["Pool", row.pool === null ? "-" : `${number(row.pool)} of ${number(row.pool_size)}`], ["Processor", row.temperature_c === null ? "-" : `${row.temperature_c} °C`],
    ["Heard", heard(row)], ["Signature", row.verified ? "verified" : "unverified"]];
  byId("node-figures").replaceChildren(...figures.map(([name, text]) => element("div", {}, element("dt", {textContent: name}), element("dd", {textContent: text}))));
  showRefusals(row);
  showLinks(row);
}

function showRefusals(row) {
  const counts = Object.entries(row.refusals ?? {}).sort((a, b) => b[1] - a[1]);
  const holder = byId("node-refusals");
  if (!counts.length) {
    holder.replaceChildren(element("p", {className: "soft", textContent: row.refusals === null ? "Not reported." : "None."}));
    return;
  }
  const lines = counts.map(([reason, count]) => element("tr", {}, element("td", {textContent: reason}), element("td", {textContent: number(count)})));
  const head = element("tr", {}, element("th", {scope: "col", textContent: "Reason"}), element("th", {scope: "col", textContent: "Messages"}));
  holder.replaceChildren(element("table", {className: "plain"}, element("thead", {}, head), element("tbody", {}, ...lines)));
}

function showLinks(row) {
  const names = [...(state.near.get(row.node) ?? [])].sort(natural.compare).slice(0, LINKS_LISTED);
  byId("node-links").replaceChildren(...names.map((name) => {
    const other = state.nodes.get(name);
    const text = other ? ` ${words(other)}` : "";
    const leftOut = row.left_out?.includes(name) ? element("strong", {className: "bad", textContent: ", left out"}) : "";
    const label = element("span", {className: `state s-${other ? other.standing : "absent"}`, textContent: text});
    return element("li", {}, element("a", {href: `#node/${name}`, textContent: name}), label, leftOut);
  }));
}

async function loadNode() {
  if (view !== "node" || chosen === null) return;
  const name = chosen;
  const answer = await fetch(`/node/${encodeURIComponent(name)}`).catch(() => null);
  if (!answer || !answer.ok || name !== chosen || view !== "node") return;
  nodeHistory = await answer.json();
  chart("node-times", [{label: "round time", colour: "c0"}]).set([nodeHistory.at, nodeHistory.round_ms]);
  chart("node-silent", [{label: "silent", colour: "c7"}], {whole: true}).set([nodeHistory.at, nodeHistory.silent]);
}

function eventRow(event) {
  const node = event.node === null ? "-" : element("a", {href: `#node/${event.node}`, textContent: event.node});
  return element("tr", {}, element("td", {textContent: clock(event.at)}), element("td", {textContent: event.kind}), element("td", {}, node), element("td", {textContent: event.text}));
}

function showEvents() {
  const rows = [...state.events].reverse().map(eventRow);
  if (!rows.length) rows.push(element("tr", {}, element("td", {textContent: "-"}), element("td", {textContent: "none"}), element("td", {textContent: "-"}), element("td", {textContent: "nothing has changed yet"})));
  document.querySelector("#events tbody").replaceChildren(...rows);
}

// -- a finished run -----------------------------------------------------------------------------

function showPhases() {
  if (!state.run) return;
  const nodes = Object.keys(state.run.phases).sort(natural.compare);
  const total = (name) => Object.values(state.run.phases[name]).reduce((sum, each) => sum + each, 0);
  const phases = new Map();
  for (const name of nodes) for (const [phase, ms] of Object.entries(state.run.phases[name])) phases.set(phase, (phases.get(phase) || 0) + ms);
  const names = [...phases.keys()].sort((a, b) => phases.get(b) - phases.get(a));
  const own = names.slice(0, COLOURS), others = names.slice(COLOURS);
  const keys = own.map((phase, k) => [`${phase} ${figureText(phases.get(phase) / nodes.length)} ms`, `c${k}`]);
  if (others.length) keys.push([`others ${figureText(others.reduce((sum, each) => sum + phases.get(each), 0) / nodes.length)} ms: ${others.join(", ")}`, "c8"]);
  const longest = Math.max(...nodes.map(total));
  byId("phase-legend").replaceChildren(...keys.map(([text, colour]) => element("li", {}, element("span", {className: `key ${colour}`}), text)));
  byId("phase-bars").replaceChildren(...nodes.map((name) => bar(name, [...own, ...others].map((phase, k) =>
    [(state.run.phases[name][phase] || 0) / longest, `c${Math.min(k, COLOURS)}`]), `${figureText(total(name))} ms`)));
}

function showError() {
  if (!state.run) return;
  const {rounds, error, disagreement} = state.run;
  setText(byId("error-text"), error ? "Distance of the nodes' estimates from the centralised answer, and from their own mean, after each round." :
    disagreement ? "The centralised answer is not known for this run. Distance of the nodes' estimates from their own mean." : "This run traced no estimates.");
  if (!disagreement) return;
  const positive = (values) => values.map((value) => value > 0 ? value : null);
  const lines = [...(error ? [["error", "c0", error]] : []), ["disagreement", "c1", disagreement]];
  chart("error", lines.map(([label, colour]) => ({label, colour})), {time: false, log: true, height: 340})
    .set([rounds, ...lines.map(([, , values]) => positive(values))]);
}

// -- views --------------------------------------------------------------------------------------

const SHOW = {fleet: showTable, rounds: showRounds, node: () => { showNode(); loadNode(); }, events: showEvents, phases: showPhases, error: showError};

function route() {
  const [name, node] = location.hash.slice(1).split("/");
  if (name === "main") return;
  view = VIEWS.includes(name) ? name : "fleet";
  if (view === "node" && node) chosen = decodeURIComponent(node);
  for (const each of VIEWS) byId(`view-${each}`).hidden = each !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (state.summary) SHOW[view]();
}

function showConnection(isServed) {
  const text = byId("connection");
  const problem = !isServed ? "NO CONNECTION to the server of this page; trying again" :
    !state.connected ? "BROKER UNREACHABLE; the figures are those of before" : "";
  text.className = problem ? "bad" : "";
  setText(text, problem || state.source);
}

// -- messages of the server ---------------------------------------------------------------------

function takeHead(message) {
  state.summary = message.summary;
  state.connected = message.connected;
  state.at = message.at;
  state.receivedAt = performance.now();
}

function takeSnapshot(message) {
  takeHead(message);
  Object.assign(state, {source: message.source, run: message.run, history: message.history, events: message.events});
  state.nodes = new Map(message.nodes.map((row) => [row.node, row]));
  showGraph(message.graph);
  for (const row of state.nodes.values()) showNodeInGraph(row);
  if (view === "node") loadNode();
  for (const name of ["phases", "error"]) document.querySelector(`nav a[href="#${name}"]`).hidden = !state.run;
  byId("live-charts").hidden = Boolean(state.run);
  if (state.run) {
    setText(byId("rounds-range"), "By round, over all nodes.");
    setText(byId("origin"), "Everything here comes from the folder of a run on this machine. Its estimates are not sent to this page.");
  }
  update();
}

function takeChange(message) {
  takeHead(message);
  for (const name of message.removed) state.nodes.delete(name);
  for (const row of message.nodes) state.nodes.set(row.node, row);
  if (message.graph) showGraph(message.graph);
  for (const row of message.graph ? state.nodes.values() : message.nodes) showNodeInGraph(row);
  state.events = [...state.events, ...message.events].slice(-EVENTS);
  if (message.sample) state.history = [...state.history.slice(1 - SAMPLES), message.sample];
  if (message.sample && view === "node") loadNode();
  update(message);
}

// *change* is null after a snapshot. Only what it changes is drawn again.
function update(change = null) {
  showConnection(true);
  showHead();
  const isStill = {rounds: change && !change.sample, events: change && !change.events.length, phases: change, error: change};
  if (view === "node") showNode();
  else if (!isStill[view]) SHOW[view]();
  if (change === null) performance.mark("drawn");
}

function start() {
  const stream = new EventSource("/events");
  stream.addEventListener("snapshot", (event) => takeSnapshot(JSON.parse(event.data)));
  stream.addEventListener("change", (event) => takeChange(JSON.parse(event.data)));
  stream.addEventListener("error", () => showConnection(false));
  addEventListener("hashchange", () => { route(); });
  byId("node-choice").addEventListener("change", (event) => { location.hash = `#node/${event.target.value}`; });
  for (const name of ["focusin", "mouseover"]) byId("graph-holder").addEventListener(name, (event) => markNear(event.target.closest?.(".node")?.dataset.node ?? null));
  byId("graph-holder").addEventListener("mouseleave", () => markNear(null));
  setInterval(() => { if (state.summary && view === "fleet") showTable(); }, 1000);
  route();
}

start();
