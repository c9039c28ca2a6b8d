// Live parts, times in the viewer's zone, keys. Text from the server is put in as text, never as
// markup of ours: a fragment is parsed in a document without scripts and then copied node by node.
"use strict";

const STALE_MS = 5000;
const body = document.body;
const feed = document.getElementById("feed");
const feedText = document.getElementById("feed-text");
const dead = document.getElementById("dead");
const said = document.getElementById("said");
const page = body.dataset.live;
let utc = read("zone") === "utc";
let lastNews = Date.now();
let lastLevel = null;
let paused = false;
let keys = true;
let source = null;

function read(name) {
  try { return localStorage.getItem("cdrstream." + name); } catch { return null; }
}
function keep(name, value) {
  try { localStorage.setItem("cdrstream." + name, value); } catch { /* private mode */ }
}
function two(number) { return String(number).padStart(2, "0"); }

function told(date, form, inUtc) {
  const get = (name) => inUtc ? date["getUTC" + name]() : date["get" + name]();
  let text = two(get("Hours")) + ":" + two(get("Minutes")) + ":" + two(get("Seconds"));
  if (form.endsWith("ms")) text += "." + String(date.getUTCMilliseconds()).padStart(3, "0");
  if (form.startsWith("date")) text = get("FullYear") + "-" + two(get("Month") + 1) + "-" + two(get("Date")) + " " + text;
  return inUtc ? text + " UTC" : text;
}
function tellTimes(root) {
  for (const time of root.querySelectorAll("time[data-form]")) {
    const text = told(new Date(time.dateTime), time.dataset.form, utc);
    if (time.textContent !== text) time.textContent = text;
  }
}
function showZone() {
  const button = document.getElementById("zone");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "your zone";
  button.textContent = utc ? "UTC" : zone;
  button.setAttribute("aria-pressed", String(utc));
  button.title = utc ? "Show times in " + zone : "Show times in UTC";
  tellTimes(document);
}

// Makes `old` like `fresh`, leaving alone what is the same, so that focus, open details and the
// place of scrolled tables stay.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const name of old.getAttributeNames()) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const name of fresh.getAttributeNames()) {
    if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
  }
  const olds = [...old.childNodes], news = [...fresh.childNodes];
  for (let index = 0; index < news.length; index++) {
    if (index < olds.length) morph(olds[index], news[index]);
    else old.append(document.importNode(news[index], true));
  }
  for (const extra of olds.slice(news.length)) extra.remove();
}

function take(event) {
  lastNews = Date.now();
  if (paused) return;
  const news = JSON.parse(event.data);
  const parsed = new DOMParser().parseFromString('<div id="live">' + news.html + "</div>", "text/html");
  const fresh = parsed.getElementById("live");
  tellTimes(fresh);
  morph(document.getElementById("live"), fresh);
  sayVerdict();
  choose(chosen, false);
  if (news.point) document.dispatchEvent(new CustomEvent("point", { detail: news.point }));
  showFeed();
}
function sayVerdict() {
  const verdict = document.getElementById("verdict");
  if (!verdict || verdict.dataset.say === lastLevel) return;
  if (lastLevel !== null) said.textContent = verdict.textContent.trim();
  lastLevel = verdict.dataset.say;
}
function showFeed() {
  const age = Date.now() - lastNews;
  const stale = age > STALE_MS;
  feed.className = "feed " + (paused ? "" : stale ? "dead" : "live");
  feedText.textContent = paused ? "paused" : stale ? "no news" : "live";
  body.classList.toggle("stale", stale && !paused);
  if (stale && !paused) {
    const text = "The dashboard has not answered for " + Math.round(age / 1000) +
      " s: what is below was so at " + told(new Date(lastNews), "time", utc) + ". It tries again by itself.";
    if (dead.textContent !== text) dead.textContent = text;
  }
  dead.hidden = !stale || paused;
  document.dispatchEvent(new CustomEvent("feed", { detail: { stale: stale || paused } }));
}
function connect() {
  if (source || document.hidden) return;
  source = new EventSource("/live?page=" + page);
  source.onmessage = take;
  source.onerror = () => {
    // A browser gives up where the answer is no stream (503, or a login that ended).
    if (source && source.readyState === EventSource.CLOSED) { source = null; setTimeout(connect, 3000); }
  };
}
function disconnect() {
  if (source) source.close();
  source = null;
}

let chosen = -1;
function rows() { return [...document.querySelectorAll("table.rows tbody tr, table.servers tbody tr")]; }
function choose(index, follow) {
  const all = rows();
  for (const row of all) row.classList.remove("chosen");
  if (index < 0 || !all.length) { chosen = -1; return; }
  chosen = Math.min(index, all.length - 1);
  all[chosen].classList.add("chosen");
  if (follow) {
    const link = all[chosen].querySelector("a");
    if (link) link.focus();
    all[chosen].scrollIntoView({ block: "nearest" });
  }
}
function typing(target) {
  return target.closest("input, select, textarea, [contenteditable]");
}
function key(event) {
  if (!keys || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const link = /^[1-9]$/.test(event.key) && document.querySelector('nav a[data-key="' + event.key + '"]');
  if (link) location.href = link.href;
  else if (event.key === "/") {
    event.preventDefault();
    const input = document.getElementById("q");
    if (input) input.focus(); else location.href = "/calls#q";
  } else if (event.key === "j") choose(chosen + 1, true);
  else if (event.key === "k") choose(Math.max(0, chosen - 1), true);
  else if (event.key === "t") toggleZone();
  else if (event.key === "p" && page) { paused = !paused; showFeed(); }
  else if (event.key === "x") { keys = false; said.textContent = "Keys are off."; }
  else if (event.key === "?") toggleHelp();
}
function toggleZone() {
  utc = !utc;
  keep("zone", utc ? "utc" : "local");
  showZone();
  document.dispatchEvent(new CustomEvent("zone"));
}
function toggleHelp() {
  const list = document.getElementById("keys");
  list.hidden = !list.hidden;
  document.getElementById("help").setAttribute("aria-expanded", String(!list.hidden));
}

document.getElementById("zone").addEventListener("click", toggleZone);
document.getElementById("help").addEventListener("click", toggleHelp);
document.addEventListener("keydown", key);
showZone();
if (location.hash === "#q") document.getElementById("q")?.focus();
if (page) {
  sayVerdict();
  connect();
  setInterval(showFeed, 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) disconnect();
    else { lastNews = Math.max(lastNews, Date.now() - STALE_MS + 2000); connect(); }
  });
}
