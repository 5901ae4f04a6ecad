// Bars as SVG: one plot a scenario, by its first figure, or by its first time where it has none of all.

import { typical } from "./results.mjs";
import { SCENARIOS } from "./scenarios.mjs";

const WIDTH = 720;
const LEFT = 150;
const RIGHT = 90;
const BAR = 20;
const GAP = 8;
const TOP = 34;

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const shown = (it) => (it >= 100 ? Math.round(it).toLocaleString("en-US") : it.toFixed(2));

const bars = (title, unit, rows) => {
  const most = Math.max(...rows.map(({ value }) => value));
  const height = TOP + rows.length * (BAR + GAP) + 6;
  const lines = rows.map(({ name, value }, index) => {
    const y = TOP + index * (BAR + GAP);
    const width = Math.max(1, ((WIDTH - LEFT - RIGHT) * value) / most);
    const colour = name.startsWith("ours") ? "#2f6f8f" : "#b7bfc6";
    return `<text x="${LEFT - 8}" y="${y + 15}" text-anchor="end">${escape(name)}</text>
<rect x="${LEFT}" y="${y}" width="${width.toFixed(1)}" height="${BAR}" fill="${colour}"/>
<text x="${(LEFT + width + 6).toFixed(1)}" y="${y + 15}">${shown(value)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13">
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
<g fill="#1d2327"><text x="10" y="20" font-weight="600">${escape(title)} (${escape(unit)})</text>
${lines.join("\n")}</g>
</svg>
`;
};

/** File names and their contents. */
export const plots = (measured) =>
  Object.entries(measured).flatMap(([scenario, servers]) => {
    const { title, figures, times, servers: order } = SCENARIOS[scenario];
    // A figure may have one name for us and another for a peer, where their processes have.
    const by = (names) => order.flatMap((name) => {
      const found = names.map((figure) => typical(servers[name], figure)).find((it) => it !== undefined);
      return found === undefined ? [] : [{ name, value: found }];
    });
    const unit = { events_per_s: "events/s", deliveries_per_s: "deliveries/s", memory_each_frontend: "KiB a connection", replayed_per_s: "events/s", all_caught_up_s: "seconds" }[figures[0]];
    const rows = scenario === "single" ? by([`${times[0]}.p50`]) : by(figures[0] === "events_per_s" ? ["events_per_s"] : figures);
    if (!rows.length) return [];
    return [[`${scenario.replaceAll(" ", "-")}.svg`, bars(title, scenario === "single" ? "p50, ms" : unit ?? figures[0], rows)]];
  });
