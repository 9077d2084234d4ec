"""Colours, style sheet and the few lines of script of the report."""

from __future__ import annotations

from typing import Final

__all__ = ["CSS", "MASK_COLOURS", "MASK_LABELS", "SCRIPT"]

#: Labels of the artefact mask, and colours (red, green, blue) that colour-blind readers can tell apart.
MASK_LABELS: Final = ("good", "defect", "contamination", "carbon", "crystalline ice")
MASK_COLOURS: Final = ((0, 0, 0), (213, 94, 0), (230, 159, 0), (0, 158, 115), (86, 180, 233))

# The palette follows Okabe and Ito (2008), which colour-blind readers can tell apart; dark mode lightens it.
CSS: Final = """
:root{--bg:#f5f6f8;--paper:#fff;--ink:#1b1f24;--quiet:#59626d;--line:#d5d9df;--soft:#eef0f3;--accent:#0b62a4;
--scattering:#0072b2;--aberrations:#c77f00;--specimen:#008561;--detector:#b0568a;--image:#6b7280;
--observed:#59626d;--fitted:#d55e00;--noise:#0072b2;--warn-bg:#fff3d6;--warn-ink:#6b4300;--kept:#b9c0c9}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--paper:#1d2126;--ink:#e7eaee;--quiet:#a4adb8;--line:#3a414a;
--soft:#272c33;--accent:#6db7f2;--scattering:#56b4e9;--aberrations:#e69f00;--specimen:#2cc295;--detector:#dd94bd;
--image:#9aa3ae;--observed:#a4adb8;--fitted:#ff8a3d;--noise:#56b4e9;--warn-bg:#43330e;--warn-ink:#ffdf9c;--kept:#5b646f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,footer{max-width:1240px;margin:0 auto;padding:0 20px}
header{padding-top:22px}
h1{font-size:26px;margin:0 0 4px}
h2{font-size:20px;margin:34px 0 10px}
h3{font-size:16px;margin:0 0 8px}
a{color:var(--accent)}
nav a{margin-right:14px}
.quiet{color:var(--quiet)}
.small{font-size:13px}
.box{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.grid{display:grid;gap:14px}
.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:10px;margin:14px 0}
.fact{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.fact b{display:block;font-size:20px;font-weight:650;white-space:nowrap}
.fact span{color:var(--quiet);font-size:13px}
.headline li{margin:5px 0}
.headline li:first-child{font-size:17px;font-weight:600}
.headline,.todo{margin:0;padding-left:20px}
.todo li{margin-bottom:8px}
.todo dl{display:grid;grid-template-columns:auto 1fr;gap:0 10px;margin:2px 0 0}
.todo dt{color:var(--quiet);font-size:13px;line-height:21px}
.todo dd{margin:0}
.notice{background:var(--warn-bg);color:var(--warn-ink);border-radius:8px;padding:9px 14px;margin:10px 0}
.flag{display:inline-block;background:var(--warn-bg);color:var(--warn-ink);border-radius:10px;padding:1px 9px;
font-size:12.5px;font-weight:600;white-space:nowrap}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet);font-size:13px;padding-bottom:4px}
th,td{padding:3px 8px;text-align:left;vertical-align:middle;border-bottom:1px solid var(--soft)}
thead th{font-size:12.5px;color:var(--quiet);font-weight:600;border-bottom:1px solid var(--line);vertical-align:bottom}
tbody th{font-weight:500}
td.number,th.number{text-align:right;white-space:nowrap}
tr.abstained th,tr.abstained td{color:var(--quiet)}
table.compact{font-size:13.5px}
.scroll{overflow-x:auto}
.tall{max-height:520px;overflow:auto}
.tall thead th{position:sticky;top:0;background:var(--paper)}
th button{all:unset;cursor:pointer}
th button:focus-visible{outline:2px solid var(--accent)}
th[aria-sort=ascending] button::after{content:" \\25B2"}
th[aria-sort=descending] button::after{content:" \\25BC"}
.dot{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--quiet);margin:6px 0}
.multiples{display:grid;align-items:start;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:14px}
.multiples .high{grid-row:span 2}
figure{margin:0}
.nothing{aspect-ratio:1;background:var(--soft);color:var(--quiet);display:grid;place-items:center}
td.bar{width:112px;min-width:112px;padding-right:0}
.fit tbody th{min-width:124px}
.fit td:nth-child(2){min-width:150px}
.fit th,.fit td{padding:3px 6px}
table.compact data{white-space:nowrap}
.abstentions{margin:6px 0 0;font-size:12.5px;color:var(--quiet)}
.abstentions dt{float:left;clear:left;margin-right:6px;color:var(--ink)}
.caution{font-size:11.5px}
figcaption{font-size:13px;color:var(--quiet);margin-top:4px}
svg{display:block;max-width:100%;height:auto}
svg text{fill:var(--ink);font-size:12px;font-family:inherit}
svg .quiet-text,svg .tick{fill:var(--quiet)}
svg .tick{font-size:11px}
svg .axis{stroke:var(--quiet);stroke-width:1;fill:none}
svg .gridline{stroke:var(--line);stroke-width:1;fill:none}
svg .curve{fill:none;stroke-width:1.4;stroke-linejoin:round}
svg .whisker{stroke:var(--ink);stroke-width:1.3;fill:none}
.f-scattering{--c:var(--scattering)}.f-aberrations{--c:var(--aberrations)}.f-specimen{--c:var(--specimen)}
.f-detector{--c:var(--detector)}.f-image{--c:var(--image)}.f-kept{--c:var(--kept)}
.fill{fill:var(--c)}.stroke{stroke:var(--c);fill:none}.dot.key{background:var(--c)}
.card{margin:0 0 18px;scroll-margin-top:10px}
.card-head{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:baseline;margin-bottom:2px}
.card-head h3{font-size:17px;margin:0;overflow-wrap:anywhere}
.card-facts{display:flex;flex-wrap:wrap;gap:2px 22px;margin:0 0 8px}
.pictures{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:12px;margin:6px 0 12px}
.picture{position:relative;background:#000;border-radius:4px;overflow:hidden}
.picture img{display:block;width:100%;height:auto}
.picture svg,.picture .mask{position:absolute;inset:0;width:100%;height:100%}
.mask{background:var(--mask) 0 0/100% 100%;image-rendering:pixelated;display:none}
.mask-toggle:checked~.pictures .mask{display:block}
.mask-key{display:none}
.mask-toggle:checked~.mask-key{display:flex}
.picture svg text{fill:#fff;font-size:15px;paint-order:stroke;stroke:#000;stroke-width:3px}
.loop{display:grid;grid-template-columns:300px minmax(0,1fr);gap:26px;align-items:start}
.fit{display:grid;grid-template-columns:minmax(0,4fr) minmax(0,7fr);gap:16px;align-items:start}
.podium{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}
.podium a{color:inherit;text-decoration:none;overflow-wrap:anywhere;font-size:13px}
.podium a b{display:block;color:var(--accent);font-weight:600}
footer{color:var(--quiet);font-size:13px;padding-bottom:30px}
@media (max-width:900px){#graph svg,#course svg{min-width:820px}
.two,.fit,.loop{grid-template-columns:minmax(0,1fr)}
.pictures{grid-template-columns:repeat(2,1fr)}}
@media print{@page{margin:12mm}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
:root{--bg:#fff;--paper:#fff;--ink:#000;--quiet:#444;--line:#bbb;--soft:#eee;--accent:#003f70;--scattering:#0072b2;
--aberrations:#c77f00;--specimen:#008561;--detector:#b0568a;--image:#6b7280;--observed:#59626d;--fitted:#d55e00;
--noise:#0072b2;--warn-bg:#fff3d6;--warn-ink:#6b4300;--kept:#b9c0c9}
body{font-size:11px}nav,.mask-switch{display:none}.box,figure,tr{break-inside:avoid}.tall{max-height:none;overflow:visible}}
"""

# Sorts a table by the clicked column: numbers by the exact value of <data>, other cells by their text.
SCRIPT: Final = """
document.querySelectorAll("table.sortable").forEach(function(table){
var heads=table.querySelectorAll("thead th"),body=table.tBodies[0];
heads.forEach(function(head,column){var button=head.querySelector("button");if(!button)return;
button.addEventListener("click",function(){
var up=head.getAttribute("aria-sort")==="descending"||!head.hasAttribute("aria-sort");
heads.forEach(function(h){h.removeAttribute("aria-sort")});head.setAttribute("aria-sort",up?"ascending":"descending");
function key(row){var cell=row.cells[column],d=cell.querySelector("data");
return d?parseFloat(d.value):cell.textContent.trim()}
Array.from(body.rows).sort(function(a,b){var p=key(a),q=key(b),n=typeof p==="number",m=typeof q==="number";
if(n!==m)return n?-1:1;var c=n?p-q:p.localeCompare(q,undefined,{numeric:true});return up?c:-c})
.forEach(function(row){body.appendChild(row)})})})});
document.querySelectorAll(".mask-all").forEach(function(all){all.addEventListener("change",function(){
document.querySelectorAll(".mask-toggle").forEach(function(one){one.checked=all.checked})})});
"""
