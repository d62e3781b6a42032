"""The page's look: light and dark, on a phone, on a wide screen and on paper."""

HEAT_LEVELS = 7

# Each level's ink stands out from its ground with a contrast of 4.5 at least, as does all other text.
STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f4f6f8; --ink: #18202a; --quiet: #556270; --rule: #d8dee5;
  --own: #b4400a; --other: #3d6690; --bar: #cfdfee;
  --heat-0: #eef4fb; --heat-1: #d5e5f5; --heat-2: #aecfeb; --heat-3: #7db2de;
  --heat-4: #2f76b7; --heat-5: #1d5a96; --heat-6: #0c3a6b;
  --heat-ink-0: #18202a; --heat-ink-1: #18202a; --heat-ink-2: #18202a; --heat-ink-3: #18202a;
  --heat-ink-4: #ffffff; --heat-ink-5: #ffffff; --heat-ink-6: #ffffff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #12171d; --raised: #1b222a; --ink: #e7ebef; --quiet: #a0acb8; --rule: #323c47;
    --own: #ff9a5a; --other: #8db4dc; --bar: #2b4560;
    --heat-0: #1a232d; --heat-1: #1d3850; --heat-2: #204d71; --heat-3: #265f8e;
    --heat-4: #5b98cf; --heat-5: #93c1ea; --heat-6: #d3e8fb;
    --heat-ink-0: #e7ebef; --heat-ink-1: #e7ebef; --heat-ink-2: #e7ebef; --heat-ink-3: #ffffff;
    --heat-ink-4: #0b1016; --heat-ink-5: #0b1016; --heat-ink-6: #0b1016;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { margin: 0 0 6px; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 44px 0 6px; font-size: 1.2rem; line-height: 1.3; }
p { margin: 6px 0 12px; max-width: 74ch; }
.lead { font-size: 1.08rem; }
.quiet, caption, footer, figcaption { color: var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 20px 0 0; }
.card { margin: 0; padding: 12px 14px; background: var(--raised); border-radius: 8px; }
.card dt { font-size: .82rem; color: var(--quiet); }
.card dd { margin: 0; font-size: .82rem; color: var(--quiet); }
.card dd.value { font-size: 1.4rem; line-height: 1.35; font-weight: 600; color: var(--ink); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 4px 32px;
  margin: 20px 0 0; font-size: .9rem; }
.facts div { display: grid; grid-template-columns: 9.5rem 1fr; gap: 12px; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
p.quiet { font-size: .9rem; }
.predicted { font-size: .72rem; font-weight: 700; letter-spacing: .04em; color: var(--own); }
figure { margin: 14px 0 18px; }
figcaption { font-size: .88rem; max-width: 84ch; margin-top: 4px; }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.narrow { display: none; }
svg text { fill: var(--ink); font-size: 13px; }
svg .tick, svg .axis-name { fill: var(--quiet); font-size: 12px; }
svg .rule { stroke: var(--rule); stroke-width: 1; }
svg .leader { stroke: var(--quiet); stroke-width: 1; }
svg .mark { fill: var(--other); stroke: var(--ground); stroke-width: 1.5; }
svg .mark.own { fill: var(--own); }
svg .label.own { fill: var(--own); font-weight: 700; }
svg .bar { fill: var(--bar); stroke: var(--other); stroke-dasharray: 4 3; }
svg .halo { paint-order: stroke; stroke: var(--ground); stroke-width: 4px; stroke-linejoin: round; }
svg .heat text, svg .note text { font-size: inherit; }
svg .note text { fill: var(--quiet); }
.legend rect { stroke: var(--rule); }
svg .heat-none rect { fill: none; stroke: var(--rule); stroke-dasharray: 3 2; }
svg .heat-none text { fill: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 0 0 10px; padding: 0; list-style: none;
  font-size: .82rem; color: var(--quiet); }
.legend svg { display: inline-block; width: 14px; height: 14px; margin-right: 5px; vertical-align: -2px; }
.tables { display: flex; flex-wrap: wrap; gap: 0 56px; }
.scroll { overflow-x: auto; margin: 10px 0 18px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .85rem; padding-bottom: 4px; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { font-weight: 600; color: var(--quiet); font-size: .82rem; vertical-align: bottom; }
tbody th { font-weight: 400; }
th:last-child, td:last-child { padding-right: 2px; }
th:first-child, th.words, td.words { text-align: left; }
td.words { white-space: normal; min-width: 16ch; }
tr.own th, tr.own td { font-weight: 700; color: var(--own); }
details { margin: 6px 0 18px; }
summary { cursor: pointer; color: var(--other); }
footer { margin-top: 44px; padding-top: 14px; border-top: 1px solid var(--rule); font-size: .86rem; }
footer h2 { margin-top: 0; color: var(--ink); font-size: 1rem; }
code { font-size: .92em; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--own); outline-offset: 2px; }
@media screen and (max-width: 840px) {
  main { padding: 20px 16px 36px; }
  .wide { display: none; }
  .narrow { display: block; max-width: 480px; }
  th, td { white-space: normal; }
  td.words { min-width: 7ch; }
}
@media screen and (max-width: 480px) {
  h1 { font-size: 1.4rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: 10px; }
  .card dd.value { font-size: 1.2rem; }
  .card:last-child:nth-child(odd) { grid-column: 1 / -1; }
  table { font-size: .82rem; }
  th, td { padding-right: 7px; }
  thead th { font-size: .76rem; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  figure, .card, tr { break-inside: avoid; }
  h2, caption { break-after: avoid; }
  .card { border: 1px solid var(--rule); }
  .scroll { overflow: visible; }
}
""" + "".join(
    f"svg .heat-{level} rect {{ fill: var(--heat-{level}); }}\n"
    f"svg .heat-{level} text {{ fill: var(--heat-ink-{level}); }}\n"
    for level in range(HEAT_LEVELS)
)
