"""Pictures of the demo's products, drawn rather than shipped: a few shapes, two tones and a
shadow, in the product's own colour."""

import colorsys
from functools import cache
from xml.sax.saxutils import escape

from tools.demo import catalog
from tools.demo.vocabulary import COLOURS

# Drawn on 200 by 200, standing on y = 158. `c` is the colour, `d` darker, `l` lighter.
SHAPES = {
    "mug": '<path d="M132 84h14a18 18 0 0 1 0 44h-14" fill="none" stroke="{d}" stroke-width="10"/>'
    '<path d="M62 68h74v72a18 18 0 0 1-18 18H80a18 18 0 0 1-18-18z" fill="{c}"/>'
    '<ellipse cx="99" cy="68" rx="37" ry="9" fill="{d}"/>',
    "bowl": '<path d="M38 92h124c0 40-26 66-62 66s-62-26-62-66z" fill="{c}"/>'
    '<ellipse cx="100" cy="92" rx="62" ry="15" fill="{d}"/>'
    '<ellipse cx="100" cy="95" rx="50" ry="10" fill="{l}"/>',
    "plate": '<ellipse cx="100" cy="112" rx="74" ry="46" fill="{d}"/>'
    '<ellipse cx="100" cy="107" rx="74" ry="46" fill="{c}"/>'
    '<ellipse cx="100" cy="107" rx="46" ry="27" fill="{l}"/>',
    "pan": '<rect x="128" y="94" width="64" height="11" rx="5" fill="{d}"/>'
    '<ellipse cx="84" cy="112" rx="62" ry="44" fill="{d}"/>'
    '<ellipse cx="84" cy="105" rx="62" ry="44" fill="{c}"/>'
    '<ellipse cx="84" cy="106" rx="49" ry="33" fill="{d}"/>',
    "pot": '<rect x="30" y="96" width="140" height="14" rx="7" fill="{d}"/>'
    '<path d="M46 86h108v54a18 18 0 0 1-18 18H64a18 18 0 0 1-18-18z" fill="{c}"/>'
    '<path d="M42 86c8-22 108-22 116 0z" fill="{l}"/><circle cx="100" cy="63" r="8" fill="{d}"/>',
    "knife": '<path d="M60 40c26 22 34 54 34 78H72z" fill="#d9dde0"/>'
    '<rect x="69" y="116" width="27" height="50" rx="8" fill="{c}"/>'
    '<circle cx="82" cy="130" r="3" fill="{l}"/><circle cx="82" cy="150" r="3" fill="{l}"/>',
    "board": '<rect x="42" y="58" width="116" height="100" rx="12" fill="{c}"/>'
    '<path d="M56 78h88M56 98h88M56 118h88M56 138h88" stroke="{d}" stroke-width="3" opacity=".5"/>'
    '<circle cx="142" cy="72" r="6" fill="{l}"/>',
    "jar": '<rect x="64" y="44" width="72" height="20" rx="6" fill="{d}"/>'
    '<rect x="56" y="62" width="88" height="96" rx="16" fill="{c}"/>'
    '<rect x="68" y="88" width="64" height="40" rx="4" fill="{l}"/>',
    "towel": '<path d="M52 42h96v116H52z" fill="{c}"/><path d="M52 42h48v116H52z" fill="{l}"/>'
    '<path d="M52 130h96M52 140h96" stroke="{d}" stroke-width="4"/>',
    "packet": '<path d="M62 46h76v112H62z" fill="{c}"/><path d="M62 46h76l-8 20H70z" fill="{d}"/>'
    '<rect x="76" y="84" width="48" height="48" rx="24" fill="{l}"/>'
    '<path d="M100 96c12 8 12 20 0 28-12-8-12-20 0-28z" fill="{d}"/>',
    "teapot": '<path d="M140 92c26 4 22 40-4 38" fill="none" stroke="{d}" stroke-width="9"/>'
    '<path d="M62 108c-16 2-24-10-28-24l14-2c4 14 12 14 22 12z" fill="{d}"/>'
    '<ellipse cx="100" cy="116" rx="48" ry="42" fill="{c}"/>'
    '<ellipse cx="100" cy="80" rx="28" ry="8" fill="{l}"/><circle cx="100" cy="68" r="7" '
    'fill="{d}"/>',
    "dripper": '<path d="M52 62h96l-32 58H84z" fill="{c}"/><ellipse cx="100" cy="62" rx="48" '
    'ry="11" fill="{d}"/><rect x="66" y="118" width="68" height="10" rx="5" fill="{l}"/>'
    '<path d="M76 128h48v30H76z" fill="{d}"/>',
    "grinder": '<path d="M100 52h46" stroke="{d}" stroke-width="8"/><circle cx="148" cy="50" r="9" '
    'fill="{l}"/><rect x="72" y="60" width="56" height="40" rx="8" fill="{d}"/>'
    '<rect x="68" y="96" width="64" height="62" rx="8" fill="{c}"/>',
    "blanket": '<rect x="40" y="112" width="120" height="46" rx="14" fill="{d}"/>'
    '<rect x="40" y="88" width="120" height="40" rx="14" fill="{c}"/>'
    '<rect x="40" y="66" width="120" height="38" rx="14" fill="{l}"/>'
    '<path d="M58 70v84M74 68v88" stroke="{c}" stroke-width="4" opacity=".7"/>',
    "sheet": '<path d="M46 60l92-14 16 96-92 16z" fill="{c}"/>'
    '<path d="M46 60l92-14 4 24-92 14z" fill="{l}"/>'
    '<path d="M58 104l92-14M60 118l92-14" stroke="{d}" stroke-width="3" opacity=".5"/>',
    "pillow": '<path d="M38 74c30 8 94 8 124 0-8 28-8 52 0 80-30-8-94-8-124 0 8-28 8-52 0-80z" '
    'fill="{c}"/><path d="M56 88c24 5 64 5 88 0" fill="none" stroke="{l}" stroke-width="5"/>',
    "mask": '<path d="M30 96q70-30 140 0M30 104q70 20 140 0" fill="none" stroke="{d}" '
    'stroke-width="5"/><path d="M48 86q52-22 104 0c8 34-34 52-52 30-18 22-60 4-52-30z" '
    'fill="{c}"/>',
    "lamp": '<ellipse cx="92" cy="154" rx="38" ry="8" fill="{d}"/>'
    '<path d="M92 150V96l36-36" fill="none" stroke="{d}" stroke-width="7"/>'
    '<path d="M108 40l48 30-40 26c-14-12-18-36-8-56z" fill="{c}"/>'
    '<path d="M116 96l40-26 8 60z" fill="#fff3c4" opacity=".55"/>',
    "pendant": '<path d="M100 0v62" stroke="{d}" stroke-width="4"/>'
    '<path d="M50 118c0-74 100-74 100 0z" fill="{c}"/><ellipse cx="100" cy="118" rx="50" ry="9" '
    'fill="#fff3c4"/><path d="M66 112c2-30 16-40 30-42" fill="none" stroke="{l}" '
    'stroke-width="5"/>',
    "floorlamp": '<path d="M100 76v80" stroke="{d}" stroke-width="6"/>'
    '<ellipse cx="100" cy="156" rx="34" ry="7" fill="{d}"/>'
    '<path d="M78 28h44l18 52H60z" fill="{c}"/><ellipse cx="100" cy="80" rx="40" ry="7" '
    'fill="#fff3c4"/>',
    "lantern": '<path d="M76 52q24-40 48 0" fill="none" stroke="{d}" stroke-width="5"/>'
    '<path d="M66 52h68l8 18H58z" fill="{c}"/><rect x="64" y="70" width="72" height="76" '
    'fill="{l}"/><rect x="92" y="104" width="16" height="40" fill="#fbf6e6"/>'
    '<path d="M100 84c8 10 6 18 0 20-6-2-8-10 0-20z" fill="#e8a23a"/>'
    '<rect x="58" y="144" width="84" height="14" rx="4" fill="{c}"/>',
    "candle": '<path d="M100 34c12 15 9 26 0 30-9-4-12-15 0-30z" fill="#e8a23a"/>'
    '<path d="M100 62v14" stroke="#333" stroke-width="3"/>'
    '<rect x="72" y="74" width="56" height="72" rx="6" fill="{l}"/>'
    '<ellipse cx="100" cy="150" rx="48" ry="10" fill="{c}"/>',
    "book": '<path d="M58 42h80a8 8 0 0 1 8 8v108H66a8 8 0 0 1-8-8z" fill="{c}"/>'
    '<path d="M58 42h14v116h-6a8 8 0 0 1-8-8z" fill="{d}"/><rect x="86" y="66" width="44" '
    'height="26" rx="3" fill="{l}"/><path d="M134 42v116" stroke="{d}" stroke-width="5"/>',
    "pen": '<path d="M140 38l16 16-70 74-24 10 8-26z" fill="{c}"/>'
    '<path d="M70 112l16 16-24 10z" fill="#d8b45a"/><path d="M112 66l16 16" stroke="{l}" '
    'stroke-width="6"/><path d="M54 152h70" stroke="{d}" stroke-width="3"/>',
    "pencils": '<path d="M62 70l10-24 10 24v88H62z" fill="{c}"/><path d="M90 62l10-24 10 24v96H90z"'
    ' fill="{l}"/><path d="M118 70l10-24 10 24v88h-20z" fill="{d}"/>',
    "roll": '<rect x="52" y="72" width="104" height="86" rx="10" fill="{c}"/>'
    '<ellipse cx="52" cy="115" rx="16" ry="43" fill="{d}"/><ellipse cx="52" cy="115" rx="8" '
    'ry="24" fill="{l}"/><path d="M112 72v86" stroke="{l}" stroke-width="6"/>',
    "planter": '<path d="M100 92c-40-10-42-40-34-52 22 4 34 22 34 52zM100 92c40-14 40-42 30-54-20 '
    '6-30 24-30 54z" fill="#6f8f58"/><path d="M100 92c-6-30 0-50 2-64" stroke="#4d6b3c" '
    'stroke-width="4" fill="none"/><path d="M58 90h84l-10 68H68z" fill="{c}"/>'
    '<rect x="52" y="84" width="96" height="18" rx="4" fill="{d}"/>',
    "can": '<path d="M66 100L26 70" stroke="{d}" stroke-width="9"/><path d="M18 62l16 16" '
    'stroke="{d}" stroke-width="12"/><path d="M130 92c40 0 34 50 6 52" fill="none" stroke="{d}" '
    'stroke-width="8"/><path d="M62 82h74v76H62z" fill="{c}"/><ellipse cx="99" cy="82" rx="37" '
    'ry="9" fill="{l}"/>',
    "trowel": '<path d="M80 88h40v34c0 20-20 40-20 40s-20-20-20-40z" fill="#c9ced1"/>'
    '<path d="M100 88V70" stroke="#9aa1a5" stroke-width="8"/>'
    '<rect x="88" y="28" width="24" height="46" rx="10" fill="{c}"/>',
    "shears": '<path d="M100 92L84 40M100 92l22-50" stroke="#aeb5b9" stroke-width="11"/>'
    '<path d="M98 94c-26 10-30 40-26 62M102 94c26 10 30 40 26 62" fill="none" stroke="{c}" '
    'stroke-width="13"/><circle cx="100" cy="92" r="8" fill="{d}"/>',
    "gloves": '<path d="M70 158v-50c-16-8-20-24-16-28 8-2 14 8 18 12V58a12 12 0 0 1 24 0v100z" '
    'fill="{c}"/><path d="M106 158V58a12 12 0 0 1 24 0v34c4-4 10-14 18-12 4 4 0 20-16 28v50z" '
    'fill="{d}"/><path d="M70 142h26M106 142h26" stroke="{l}" stroke-width="6"/>',
    "house": '<path d="M60 84h80v74H60z" fill="{c}"/><path d="M46 92l54-52 54 52z" fill="{d}"/>'
    '<circle cx="100" cy="108" r="15" fill="{d}"/><path d="M100 132v14" stroke="{l}" '
    'stroke-width="6"/>',
    "backpack": '<path d="M80 46q20-26 40 0" fill="none" stroke="{d}" stroke-width="7"/>'
    '<rect x="54" y="44" width="92" height="114" rx="30" fill="{c}"/>'
    '<rect x="66" y="100" width="68" height="46" rx="10" fill="{d}"/>'
    '<path d="M62 84h76" stroke="{l}" stroke-width="5"/>',
    "tote": '<path d="M74 80c0-56 52-56 52 0" fill="none" stroke="{d}" stroke-width="7"/>'
    '<path d="M50 76h100l8 82H42z" fill="{c}"/><path d="M48 96h104" stroke="{l}" '
    'stroke-width="4"/>',
    "bag": '<path d="M66 84c4-48 64-48 68 0" fill="none" stroke="{d}" stroke-width="7"/>'
    '<rect x="38" y="82" width="124" height="76" rx="14" fill="{c}"/>'
    '<path d="M38 96a14 14 0 0 1 14-14h96a14 14 0 0 1 14 14v14q-62 30-124 0z" fill="{d}"/>'
    '<rect x="92" y="114" width="16" height="18" rx="3" fill="{l}"/>',
    "wallet": '<rect x="42" y="70" width="116" height="84" rx="10" fill="{c}"/>'
    '<path d="M42 96h116" stroke="{d}" stroke-width="4"/><rect x="124" y="102" width="34" '
    'height="24" rx="8" fill="{d}"/><circle cx="136" cy="114" r="5" fill="{l}"/>',
    "basket": '<path d="M62 92c0-64 76-64 76 0" fill="none" stroke="{d}" stroke-width="7"/>'
    '<path d="M42 90h116l-14 68H56z" fill="{c}"/><path d="M46 108h108M50 126h100M54 144h92'
    'M74 92v64M100 92v64M126 92v64" stroke="{d}" stroke-width="3" opacity=".6"/>',
    "tent": '<path d="M100 42L26 158h148z" fill="{c}"/><path d="M100 42l-34 116h68z" fill="{d}"/>'
    '<path d="M100 42v116" stroke="{l}" stroke-width="4"/>',
    "sleepingbag": '<path d="M70 36h60a24 24 0 0 1 24 24l-10 74a28 28 0 0 1-28 24H84a28 28 0 0 1-28'
    '-24L46 60a24 24 0 0 1 24-24z" fill="{c}"/><ellipse cx="100" cy="62" rx="34" ry="18" '
    'fill="{l}"/><path d="M100 80v76" stroke="{d}" stroke-width="5"/>',
    "bottle": '<rect x="84" y="30" width="32" height="24" rx="5" fill="{d}"/>'
    '<path d="M78 54h44l8 20v72a12 12 0 0 1-12 12H82a12 12 0 0 1-12-12V74z" fill="{c}"/>'
    '<path d="M84 80v62" stroke="{l}" stroke-width="7"/>',
    "jacket": '<path d="M72 46h56l34 30-12 74-20-4v12H70v-12l-20 4-12-74z" fill="{c}"/>'
    '<path d="M78 46q22 26 44 0l-6-10H84z" fill="{d}"/><path d="M100 62v96" stroke="{d}" '
    'stroke-width="4"/><path d="M76 118h14M110 118h14" stroke="{l}" stroke-width="6"/>',
    "stove": '<path d="M60 70l20 24M140 70l-20 24M100 66v28" stroke="#9aa1a5" stroke-width="7"/>'
    '<rect x="70" y="92" width="60" height="14" rx="5" fill="{d}"/>'
    '<path d="M72 106h56v36a16 16 0 0 1-16 16H88a16 16 0 0 1-16-16z" fill="{c}"/>'
    '<path d="M100 46c10 12 8 20 0 24-8-4-10-12 0-24z" fill="#e8a23a"/>',
    "hammock": '<path d="M30 40v118M170 40v118" stroke="{d}" stroke-width="8"/>'
    '<path d="M32 66q68 120 136 0-24 34-68 34T32 66z" fill="{c}"/>'
    '<path d="M56 94q44 50 88 0" fill="none" stroke="{l}" stroke-width="4"/>',
    "poles": '<path d="M76 60l-14 98M124 60l14 98" stroke="#9aa1a5" stroke-width="6"/>'
    '<rect x="68" y="34" width="16" height="40" rx="8" fill="{c}"/>'
    '<rect x="116" y="34" width="16" height="40" rx="8" fill="{c}"/>'
    '<path d="M56 138h18M126 138h18" stroke="{d}" stroke-width="5"/>',
    "torch": '<path d="M34 92q66-44 132 0" fill="none" stroke="{d}" stroke-width="12"/>'
    '<rect x="70" y="76" width="60" height="56" rx="14" fill="{c}"/>'
    '<circle cx="100" cy="104" r="19" fill="#fff3c4"/><circle cx="100" cy="104" r="9" '
    'fill="#ffffff"/>',
    "blocks": '<rect x="46" y="104" width="52" height="54" rx="4" fill="{c}"/>'
    '<rect x="102" y="104" width="52" height="54" rx="4" fill="{d}"/>'
    '<rect x="72" y="48" width="54" height="54" rx="4" fill="{l}"/>'
    '<circle cx="99" cy="75" r="13" fill="{c}"/>',
    "duck": '<circle cx="66" cy="148" r="12" fill="#6b4a33"/><circle cx="132" cy="148" r="12" '
    'fill="#6b4a33"/><path d="M44 108c30 14 60-18 112-6-2 36-36 42-62 42-30 0-50-12-50-36z" '
    'fill="{c}"/><circle cx="70" cy="80" r="27" fill="{c}"/><path d="M44 80l-22 8 22 8z" '
    'fill="#d98b2b"/><circle cx="64" cy="74" r="4" fill="#222"/>',
    "boat": '<path d="M36 122h128l-22 36H60z" fill="{c}"/><path d="M98 30v92" stroke="#6b4a33" '
    'stroke-width="6"/><path d="M104 36l48 74h-48z" fill="{l}"/><path d="M92 52v58H54z" '
    'fill="{d}"/>',
    "tower": '<rect x="94" y="36" width="12" height="30" rx="6" fill="#6b4a33"/>'
    '<rect x="76" y="62" width="48" height="22" rx="11" fill="{l}"/><rect x="66" y="84" '
    'width="68" height="24" rx="12" fill="{c}"/><rect x="56" y="108" width="88" height="24" '
    'rx="12" fill="{d}"/><rect x="46" y="132" width="108" height="26" rx="13" fill="{c}"/>',
    "bear": '<circle cx="70" cy="52" r="16" fill="{d}"/><circle cx="130" cy="52" r="16" '
    'fill="{d}"/><ellipse cx="100" cy="126" rx="42" ry="34" fill="{c}"/><circle cx="100" cy="76" '
    'r="37" fill="{c}"/><ellipse cx="100" cy="88" rx="17" ry="13" fill="{l}"/>'
    '<circle cx="87" cy="70" r="4" fill="#222"/><circle cx="113" cy="70" r="4" fill="#222"/>'
    '<circle cx="100" cy="83" r="5" fill="#222"/>',
    "train": '<rect x="52" y="62" width="42" height="66" rx="5" fill="{d}"/>'
    '<rect x="90" y="88" width="66" height="40" rx="8" fill="{c}"/><rect x="130" y="62" '
    'width="14" height="28" fill="{d}"/><rect x="62" y="74" width="22" height="20" fill="{l}"/>'
    '<circle cx="72" cy="142" r="16" fill="#4a3a2c"/><circle cx="112" cy="142" r="16" '
    'fill="#4a3a2c"/><circle cx="146" cy="144" r="13" fill="#4a3a2c"/>',
    "top": '<path d="M100 38v34" stroke="#6b4a33" stroke-width="8"/>'
    '<path d="M44 92q56-44 112 0l-56 66z" fill="{c}"/><path d="M44 92q56 26 112 0" fill="{l}"/>',
    "soap": '<rect x="42" y="86" width="116" height="72" rx="22" fill="{d}"/>'
    '<rect x="42" y="78" width="116" height="68" rx="22" fill="{c}"/>'
    '<rect x="66" y="98" width="68" height="28" rx="10" fill="{l}"/>'
    '<circle cx="146" cy="58" r="10" fill="#fff" opacity=".7"/><circle cx="126" cy="44" r="6" '
    'fill="#fff" opacity=".7"/>',
    "brush": '<rect x="92" y="24" width="16" height="74" rx="8" fill="{c}"/>'
    '<rect x="70" y="92" width="60" height="26" rx="12" fill="{d}"/><path d="M76 118v38M88 '
    '118v40M100 118v40M112 118v40M124 118v38" stroke="#cdb289" stroke-width="7"/>',
    "jumper": '<path d="M74 44h52l40 34-14 72-18-4-2 12H68l-2-12-18 4-14-72z" fill="{c}"/>'
    '<path d="M76 44q24 24 48 0" fill="none" stroke="{d}" stroke-width="9"/>'
    '<path d="M66 92l8-8 8 8 8-8 8 8 8-8 8 8 8-8 8 8M66 108l8-8 8 8 8-8 8 8 8-8 8 8 8-8 8 8" '
    'fill="none" stroke="{l}" stroke-width="4"/><path d="M68 148h64" stroke="{d}" '
    'stroke-width="8"/>',
    "scarf": '<path d="M58 60q42 44 84 0l10 22q-52 50-104 0z" fill="{d}"/>'
    '<path d="M82 92h34l10 58H92z" fill="{c}"/><path d="M92 150v14M102 150v14M112 150v14M122 '
    '150v14" stroke="{l}" stroke-width="5"/><path d="M86 116h36M88 130h36" stroke="{l}" '
    'stroke-width="5"/>',
    "hat": '<path d="M50 128c-6-96 106-96 100 0z" fill="{c}"/><rect x="44" y="118" width="112" '
    'height="38" rx="12" fill="{d}"/><path d="M64 120v34M82 120v34M100 120v34M118 120v34M136 '
    '120v34" stroke="{c}" stroke-width="4"/>',
    "socks": '<path d="M64 36h34v68l-6 24-34 26c-16 8-30-12-18-24l24-24z" fill="{c}"/>'
    '<path d="M112 40h34v70l-8 22-32 24c-16 8-28-12-18-22l24-26z" fill="{d}"/>'
    '<path d="M64 50h34M112 54h34" stroke="{l}" stroke-width="7"/>',
    "speaker": '<rect x="58" y="30" width="84" height="128" rx="10" fill="{c}"/>'
    '<circle cx="100" cy="66" r="16" fill="{d}"/><circle cx="100" cy="116" r="31" fill="{d}"/>'
    '<circle cx="100" cy="116" r="13" fill="{l}"/>',
    "headphones": '<path d="M48 112c-4-92 108-92 104 0" fill="none" stroke="{d}" '
    'stroke-width="11"/><rect x="36" y="98" width="34" height="56" rx="15" fill="{c}"/>'
    '<rect x="130" y="98" width="34" height="56" rx="15" fill="{c}"/>'
    '<path d="M66 108v36M134 108v36" stroke="{l}" stroke-width="6"/>',
    "radio": '<path d="M140 74l18-44" stroke="#8b9195" stroke-width="5"/>'
    '<rect x="34" y="72" width="132" height="86" rx="14" fill="{c}"/><circle cx="76" cy="115" '
    'r="28" fill="{d}"/><rect x="116" y="92" width="36" height="12" rx="3" fill="{l}"/>'
    '<circle cx="134" cy="128" r="11" fill="{d}"/>',
    "turntable": '<rect x="28" y="76" width="144" height="74" rx="10" fill="{c}"/>'
    '<ellipse cx="88" cy="108" rx="48" ry="26" fill="#25282b"/><ellipse cx="88" cy="108" rx="16" '
    'ry="8" fill="{l}"/><path d="M154 88l-20 36-14 2" fill="none" stroke="#d9dde0" '
    'stroke-width="5"/><path d="M44 150v8M156 150v8" stroke="{d}" stroke-width="12"/>',
    "box": '<rect x="40" y="74" width="120" height="84" rx="6" fill="{c}"/>'
    '<path d="M56 74V50h88v24" fill="{l}"/>'
    '<path d="M68 50v24M82 50v24M96 50v24M110 50v24M126 50v24" stroke="{d}" '
    'stroke-width="4"/><rect x="80" y="96" width="40" height="14" rx="7" fill="{d}"/>',
    "stand": '<path d="M100 62v90" stroke="{d}" stroke-width="10"/><path d="M62 72c0-46 76-46 76 '
    '0" fill="none" stroke="{c}" stroke-width="16"/><ellipse cx="100" cy="152" rx="42" ry="9" '
    'fill="{c}"/>',
    "clock": '<path d="M66 150l-10 10M134 150l10 10" stroke="{d}" stroke-width="9"/>'
    '<circle cx="100" cy="104" r="54" fill="{c}"/><circle cx="100" cy="104" r="42" '
    'fill="#fbf8f0"/><path d="M100 104V76M100 104l20 12" stroke="{d}" stroke-width="6"/>'
    '<circle cx="100" cy="104" r="5" fill="{d}"/>',
}  # fmt: skip

# A warm grey, dark enough for a white mug to stand out.
_BEHIND_PALE = "#cabda8"


@cache
def _by_handle() -> dict[str, tuple[str, str, str]]:
    return {
        product.handle: (product.title, catalog.shape_of(product), catalog.colour_of(product))
        for product in catalog.products()
    }


@cache
def svg(handle: str) -> str:
    """Draw the product's picture as an SVG document of about one kilobyte.

    Raises:
        KeyError: The demo sells no such product.
    """
    title, shape, colour = _by_handle()[handle]
    base = COLOURS[colour]
    tones = {"c": base, "d": _shade(base, 0.72), "l": _shade(base, 1.28)}
    paper = _tint(base)
    glow = ".38" if paper != _BEHIND_PALE else ".12"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 200" role="img">'
        f"<title>{escape(title)}, {escape(colour.lower())}</title>"
        f'<rect width="200" height="200" fill="{paper}"/>'
        f'<circle cx="100" cy="98" r="84" fill="#ffffff" opacity="{glow}"/>'
        '<ellipse cx="100" cy="161" rx="66" ry="8" fill="#2b2620" opacity=".13"/>'
        f"{SHAPES[shape].format(**tones)}</svg>"
    )


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _hex(red: float, green: float, blue: float) -> str:
    return "#" + "".join(
        f"{round(max(0.0, min(1.0, part)) * 255):02x}" for part in (red, green, blue)
    )


def _shade(colour: str, factor: float) -> str:
    hue, light, saturation = colorsys.rgb_to_hls(*_rgb(colour))
    if factor > 1 and light > 0.75:
        factor = 1.06
    return _hex(*colorsys.hls_to_rgb(hue, min(0.95, light * factor), saturation))


def _tint(colour: str) -> str:
    """A pale wall behind the product: its own hue, or a warm grey behind pale things."""
    hue, light, saturation = colorsys.rgb_to_hls(*_rgb(colour))
    if light > 0.75:
        return _BEHIND_PALE
    return _hex(*colorsys.hls_to_rgb(hue, 0.9, min(0.35, saturation)))
