// The two charts of the overview: an hour from the server, then a point a second from the feed.
// A hole in the figures is a hole in the line; when the feed is dead the line ends.
"use strict";

(async () => {
  const hour = 3600;
  const colors = ["#3f75b5", "#c2571a", "#2e8b57", "#8d4bb0", "#b08a12", "#c23b6a", "#3b9aa8", "#6b6f76"];
  const lagBox = document.getElementById("lag-chart");
  const clockBox = document.getElementById("clock-chart");
  let history;
  try {
    const answer = await fetch("/history.json", { headers: { accept: "application/json" } });
    if (!answer.ok) return;
    history = await answer.json();
  } catch { return; }
  const names = Object.keys(history.servers);
  const lag = [history.at, history.visible_lag];
  const clock = [history.at.slice(), ...names.map((name) => history.servers[name].offset)];
  const bounds = [...names.map((name) => history.servers[name].error)];
  let charts = [];

  function ink(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function seconds(value) { return value === null || value === undefined ? "-" : value.toFixed(Math.abs(value) < 10 ? 3 : 1) + " s"; }
  function axes(unit) {
    const common = { stroke: ink("--soft"), grid: { stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line") } };
    const hours = (_, ticks, __, ___, step) => ticks.map((tick) => clockText(tick, step < 60));
    return [{ ...common, values: hours, space: 84 }, { ...common, size: 62, values: (_, ticks) => ticks.map((tick) => tick + unit) }];
  }
  function clockText(at, seconds) {
    const utc = document.getElementById("zone").getAttribute("aria-pressed") === "true";
    const text = new Date(at * 1e3).toLocaleTimeString("en-GB", utc ? { timeZone: "UTC" } : {});
    return seconds ? text : text.slice(0, 5);
  }
  // A dashed line at a value, for the floor and the threshold.
  function rule(values) {
    return { hooks: { draw: [(chart) => {
      const { ctx, bbox } = chart;
      ctx.save();
      ctx.strokeStyle = ink("--soft");
      ctx.setLineDash([5, 4]);
      for (const value of values) {
        const y = chart.valToPos(value, "y", true);
        if (y < bbox.top || y > bbox.top + bbox.height) continue;
        ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
      }
      ctx.restore();
    }] } };
  }
  // The error as a shade around each server's line.
  const shade = { hooks: { drawSeries: [(chart, index) => {
    if (index < 1) return;
    const { ctx } = chart, errors = bounds[index - 1], values = chart.data[index];
    ctx.save();
    ctx.fillStyle = colors[(index - 1) % colors.length] + "33";
    for (let at = 1; at < values.length; at++) {
      if (values[at] === null || values[at - 1] === null || errors[at] === null || errors[at - 1] === null) continue;
      const x0 = chart.valToPos(chart.data[0][at - 1], "x", true), x1 = chart.valToPos(chart.data[0][at], "x", true);
      ctx.beginPath();
      ctx.moveTo(x0, chart.valToPos(values[at - 1] + errors[at - 1], "y", true));
      ctx.lineTo(x1, chart.valToPos(values[at] + errors[at], "y", true));
      ctx.lineTo(x1, chart.valToPos(values[at] - errors[at], "y", true));
      ctx.lineTo(x0, chart.valToPos(values[at - 1] - errors[at - 1], "y", true));
      ctx.fill();
    }
    ctx.restore();
  }] } };
  function window_() { const now = Date.now() / 1e3; return [Math.max(now - hour, Math.min(lag[0][0] ?? now - 60, now - 60)), now]; }
  function draw() {
    for (const chart of charts) chart.destroy();
    const floor = Number(lagBox.dataset.floor), band = Number(clockBox.dataset.band);
    const common = { height: 200, cursor: { drag: { x: false, y: false } }, legend: { show: true, live: false } };
    charts = [
      new uPlot({ ...common, width: lagBox.clientWidth, axes: axes(" s"), plugins: [rule([floor])],
        scales: { x: { time: true, range: window_ }, y: { range: (_, least, most) => [0, Math.max(most || 0, floor) * 1.15] } },
        series: [{}, { label: "behind", stroke: colors[0], width: 2, spanGaps: false, points: { show: false }, value: (_, value) => seconds(value) }] }, lag, lagBox),
      new uPlot({ ...common, width: clockBox.clientWidth, axes: axes(" s"), plugins: [rule([band, -band]), shade],
        scales: { x: { time: true, range: window_ }, y: { range: (_, least, most) => {
          const reach = Math.max(Math.abs(least || 0), Math.abs(most || 0), band) * 1.15; return [-reach, reach]; } } },
        series: [{}, ...names.map((name, index) => ({ label: name, stroke: colors[index % colors.length], width: 2, spanGaps: false, points: { show: false }, value: (_, value) => seconds(value) }))] }, clock, clockBox),
    ];
    for (const canvas of document.querySelectorAll(".chart canvas")) canvas.setAttribute("aria-hidden", "true");
  }
  function tell() {
    const last = lag[1].length - 1;
    document.getElementById("lag-says").textContent = last < 0 || lag[1][last] === null
      ? "How far behind is not known now." : "Now " + lag[1][last].toFixed(1) + " s behind; the dashed line is the floor.";
    document.getElementById("clock-says").textContent = names.map((name, index) => name + " " + seconds(clock[index + 1][last] ?? null)).join(", ") + "; dashed: the threshold.";
    table("lag-table", ["Time", "Behind"], (at) => [seconds(lag[1][at])]);
    table("clock-table", ["Time", ...names], (at) => names.map((_, index) => seconds(clock[index + 1][at])));
  }
  function table(id, heads, cells) {
    const target = document.getElementById(id);
    if (!target.closest("details").open) return;
    const rows = [], count = lag[0].length, step = Math.max(1, Math.floor(count / 12));
    const row = (values, kind) => {
      const tr = document.createElement("tr");
      for (const value of values) { const cell = document.createElement(kind); cell.textContent = value; tr.append(cell); }
      rows.push(tr);
    };
    row(heads, "th");
    for (let at = count - 1; at >= 0; at -= step) row([new Date(lag[0][at] * 1e3).toISOString().slice(11, 19) + " UTC", ...cells(at)], "td");
    target.replaceChildren(...rows);
  }
  let lastAt = 0;
  document.addEventListener("point", (event) => {
    const point = event.detail;
    if (point.at - lastAt < 2) return;
    lastAt = point.at;
    lag[0].push(point.at); clock[0].push(point.at);
    lag[1].push(point.visible_lag);
    names.forEach((name, index) => {
      const one = point.servers[name] || {};
      clock[index + 1].push(one.offset ?? null); bounds[index].push(one.error ?? null);
    });
    while (lag[0].length && lag[0][0] < point.at - hour) {
      for (const column of [...lag, clock[0], ...clock.slice(1), ...bounds]) column.shift();
    }
    if (charts.length) { charts[0].setData(lag); charts[1].setData(clock); }
    tell();
  });
  let width = 0;
  new ResizeObserver(() => { if (lagBox.clientWidth !== width) { width = lagBox.clientWidth; draw(); } }).observe(lagBox);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.addEventListener("zone", draw);
  for (const details of document.querySelectorAll(".charts details")) details.addEventListener("toggle", tell);
  tell();
})();
