// The explorer: a loss of the family on an embedding x that moves along a circle, drawn again with every setting.
//
// Symbols: θ the angle between x and w₁, the target's class weight; θ₂ that between x and w₂, of another class; ψ(θ)
// what replaces cos θ, η what replaces the cosine of another class; s the scale; p the target's probability. A scene is
// {between, classes, norm}: the angle between w₁ and w₂, how many classes there are, the length of x. Class weights but
// w₁ and w₂ are at right angles to the circle and to each other.
//
// What is exported knows nothing of the page; tests/test_site.py compares it with refloss.

const { PI, abs, ceil, cos, exp, hypot, log, log1p, max, min, sign, sin, sqrt } = Math;

// ------------------------------------------------------------------------------------------------- curves of an angle

/** What holds beyond the boundary of each rule, and nothing (`false`) inside; see refloss/stages/margin.py. */
const RULES = {
  none: () => false,
  hard: ({ m2, m3, beyondPi, lowered }) => beyondPi && lowered(m2 * sin(m2) + m3, -sin(m2) - m2 * cos(m2)),
  easy: ({ m3, cosine, lowered }) => cosine <= 0 && lowered(m3),
  keep: ({ m3, beyondPi, lowered }) => beyondPi && lowered(m3),
  continuous: ({ m1, m2, m3, beyondPi, lowered }) =>
    beyondPi && lowered(cos((PI - m2) / m1) + 1 + m3, -sin((PI - m2) / m1) / m1),
  monotone: ({ m1, m3, phi, beyondPi }) => beyondPi && folded(phi, m1, m3),
  clamp: ({ m3, beyondPi, flat }) => beyondPi && flat(-1 - m3, 1),
  min: ({ m3, phi, cosine, lowered }) => cos(phi) - m3 > cosine && lowered(0),
  conditional: ({ m3, cosine, lowered }) => cosine <= m3 && lowered(0),
  acute: ({ cosine, lowered }) => cosine <= 0 && lowered(0), // of MVSoftmax
  clip: ({ m3, phi, eps, flat }) => // of AdaFace
    (phi < eps && flat(cos(eps) - m3, 1)) || (phi > PI - eps && flat(-cos(eps) - m3, 2)),
};

function folded(phi, m1, m3) {
  const k = ceil(phi / PI) - 1, turned = k % 2 ? -1 : 1;
  return { psi: turned * cos(phi) - 2 * k - m3, slope: -turned * m1 * sin(phi), byM2: -turned * sin(phi), part: k };
}

/**
 * ψ, ψ′ and ∂ψ/∂m₂ at an angle: cos(m₁ θ + m₂) − m₃ with a rule, annealing and the gradient's convention.
 *
 * `part` tells apart what lies on two sides of a boundary.
 */
function curve(theta, { m1 = 1, m2 = 0, m3 = 0, boundary = "none", annealing = 0, eps = 0, circle = false }, detached) {
  const cosine = cos(theta), sine = sin(theta), phi = m1 * theta + m2;
  if (circle) {
    const away = 1 - cosine;
    return { psi: m3 * m3 - away * away, slope: -(away + (detached ? m3 : away)) * sine, byM2: 0, part: 0 };
  }
  const lowered = (by, byM2 = 0) => ({ psi: cosine - by, slope: -sine, byM2, part: 1 });
  const flat = (psi, part) => ({ psi, slope: 0, byM2: 0, part });
  const inside = { psi: cos(phi) - m3, slope: -m1 * sin(phi), byM2: -sin(phi), part: 0 };
  const ruled = RULES[boundary]({ m1, m2, m3, eps, phi, cosine, beyondPi: phi > PI, lowered, flat }) || inside;
  const share = 1 + annealing;
  return {
    psi: (annealing * cosine + ruled.psi) / share,
    slope: detached ? -sine : (ruled.slope - annealing * sine) / share,
    byM2: detached ? 0 : ruled.byM2 / share,
    part: ruled.part,
  };
}

/** η of another class at an angle, and its slope per radian; the cosine of a hard class is above `threshold`. */
function other(theta, { kind, m, t }, threshold, detached) {
  const c = cos(theta), sine = sin(theta);
  if (kind === "divided") return { eta: cos(theta / m), slope: detached ? -sine : -sin(theta / m) / m, part: 0 };
  if (kind === "circle") {
    if (c <= -m) return { eta: 0, slope: 0, part: 1 };
    return { eta: c * c - m * m, slope: -(c + (detached ? m : c)) * sine, part: 0 };
  }
  if (kind && c > threshold) {
    if (kind === "curricular") return { eta: c * (t + c), slope: -(t + 2 * c) * sine, part: 1 };
    return { eta: (1 + t) * c + t, slope: -(1 + t) * sine, part: 1 }; // reweighted
  }
  return { eta: c, slope: -sine, part: 0 };
}

// ---------------------------------------------------------------------------------------------------------- the losses

const number = (name, label, low, high, step, value) => ({ name, label, low, high, step, value });
const choice = (name, label, options, value) => ({ name, label, options, value });
const fixed = (name, value) => ({ name, value });
const scale = (value) => ({ name: "s", label: "s, the scale", low: 1, high: 256, step: 1, value, otherwise: 64 });
const rule = (options, value) => choice("boundary", "boundary, the rule beyond the margin", options, value);
const ANGLE = [0, 3.14, 0.01];
const GRADIENT = choice("gradient", "gradient", ["exact", "detached"], "exact");
const ON_ANGLE = ["none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min"];

/**
 * Settings of every loss in the order of its `repr`, and its head: the curve of the target, `others` (what becomes of
 * other classes), and how the margin and the loss depend on the length of x. `refused`: refloss refuses a rule that
 * cannot act with such margins.
 */
export const LOSSES = {
  ModifiedSoftmax: { group: "Classic", settings: [], head: () => ({}) },
  NormFace: { group: "Classic", settings: [scale(64)], head: () => ({}) },
  ASoftmax: {
    group: "Classic",
    settings: [
      scale(null),
      number("m", "m, multiplies the angle", 1, 8, 0.1, 4),
      number("annealing", "annealing, λ", 0, 50, 0.5, 0),
      rule(["monotone", "none"], "monotone"),
    ],
    head: ({ m, annealing, boundary }) => ({ m1: m, annealing, boundary }),
  },
  CosFace: {
    group: "Classic",
    settings: [scale(64), number("m", "m, off the cosine", 0, 2, 0.01, 0.35), rule(["none", "conditional"], "none")],
    head: ({ m, boundary }) => ({ m3: m, boundary }),
    refused: true,
  },
  ArcFace: {
    group: "Classic",
    settings: [scale(64), number("m", "m, added to the angle, radians", ...ANGLE, 0.5), rule(ON_ANGLE, "none")],
    head: ({ m, boundary }) => ({ m2: m, boundary }),
    refused: true,
  },
  CombinedMargin: {
    group: "Classic",
    settings: [
      scale(64),
      number("m1", "m1, multiplies the angle", 0.1, 4, 0.1, 1),
      number("m2", "m2, added to the angle, radians", ...ANGLE, 0.3),
      number("m3", "m3, off the cosine", 0, 2, 0.01, 0.2),
      rule([...ON_ANGLE, "conditional"], "none"),
    ],
    head: ({ m1, m2, m3, boundary }) => ({ m1, m2, m3, boundary }),
    refused: true,
  },
  AdaFace: {
    group: "Wider family",
    settings: [
      scale(64),
      number("m", "m, the margin", 0, 1, 0.01, 0.4),
      number("h", "h, how far it moves with the length", 0, 2, 0.001, 0.333),
      number("mean", "mean of lengths, μ", 0, 100, 1, 20),
      number("std", "standard deviation of lengths, σ", 0, 100, 1, 100),
      fixed("momentum", 0.01),
      fixed("eps", 0.001),
    ],
    head: ({ m, h, mean, std, eps }, norm) => {
      const v = max(-1, min(1, (h * (max(1e-3, min(100, norm)) - mean)) / (std + eps)));
      return { m2: -m * v, m3: m + m * v, boundary: "clip", eps };
    },
  },
  MagFace: {
    group: "Wider family",
    settings: [
      scale(64),
      fixed("l_a", 10),
      fixed("u_a", 110),
      number("l_m", "l_m, the margin of the shortest, radians", ...ANGLE, 0.45),
      number("u_m", "u_m, the margin of the longest, radians", 0.01, 3.14, 0.01, 0.8),
      number("regularizer", "regularizer, λ", 0, 100, 1, 35),
      rule(ON_ANGLE, "easy"),
    ],
    head: ({ l_a, u_a, l_m, u_m, regularizer, boundary }, norm) => {
      const a = max(l_a, min(u_a, norm)), inside = a === norm;
      return {
        m2: l_m + ((u_m - l_m) * (a - l_a)) / (u_a - l_a),
        boundary,
        perNorm: inside ? (u_m - l_m) / (u_a - l_a) : 0,
        term: regularizer * (a / (u_a * u_a) + 1 / a),
        termSlope: inside ? (regularizer * (a - u_a) * (a + u_a)) / (a * a * u_a * u_a) : 0,
      };
    },
  },
  CurricularFace: {
    group: "Wider family",
    settings: [
      scale(64),
      number("m", "m, added to the angle, radians", ...ANGLE, 0.5),
      number("t", "t, mean cosine of targets so far", -1, 1, 0.01, 0),
      fixed("momentum", 0.01),
      rule(ON_ANGLE, "hard"),
    ],
    head: ({ m, t, boundary }) => ({ m2: m, boundary, others: { kind: "curricular", t } }),
    refused: true,
  },
  MVSoftmax: {
    group: "Wider family",
    settings: [
      scale(32),
      number("m", "m, off the cosine or added to the angle", 0, 2, 0.01, 0.35),
      number("t", "t, how much more hard classes count", 0, 2, 0.01, 0.2),
      choice("margin", "margin", ["am", "arc"], "am"),
      rule(["easy", "none"], "easy"),
    ],
    head: ({ m, t, margin, boundary }) => ({
      m2: margin === "arc" ? m : 0,
      m3: margin === "arc" ? 0 : m,
      boundary: boundary === "easy" ? "acute" : "none",
      others: { kind: "reweighted", t },
    }),
  },
  SphereFaceR: {
    group: "Wider family",
    settings: [
      scale(30),
      number("m", "m, multiplies or divides the angle", 1, 8, 0.1, 1.5),
      { ...choice("version", "version", ["1", "2"], 1), whole: true },
    ],
    head: ({ m, version }) => (version === 1 ? { m1: m, boundary: "clamp" } : { others: { kind: "divided", m } }),
  },
  CircleLoss: {
    group: "Wider family",
    settings: [scale(256), number("m", "m, the margin", 0, 1, 0.01, 0.25)],
    head: ({ m }) => ({ m3: m, circle: true, others: { kind: "circle", m } }),
  },
};

/** All settings of a loss, the gradient's convention first, as its `repr` has them. */
const settingsOf = (name) => [GRADIENT, ...LOSSES[name].settings];

/** The loss of that name with the settings that `texts` has and can be read, all others by default. */
export function parsed(name, texts = () => null) {
  const loss = { name };
  for (const setting of settingsOf(name)) loss[setting.name] = valueOf(setting, texts(setting.name));
  if (name === "MagFace") loss.u_m = max(loss.u_m, loss.l_m);
  return loss;
}

function valueOf({ low, high, step, options, value, otherwise, whole }, text) {
  if (text === null || text === "") return value;
  if (otherwise !== undefined && text === "None") return null;
  if (options) return options.includes(text) ? (whole ? Number(text) : text) : value;
  if (step === undefined || !Number.isFinite(Number(text))) return value;
  return Number((Math.round(max(low, min(high, Number(text))) / step) * step).toFixed(3));
}

/** Whether some angle is beyond the boundary of a rule. */
function canAct({ m1 = 1, m2 = 0, m3 = 0, boundary }) {
  if (boundary === "none") return true;
  if (boundary === "easy") return m1 !== 1 || m2 !== 0;
  if (boundary === "min") return m1 !== 1 || m3 < 2 * sin(m2 / 2) ** 2;
  if (boundary === "conditional") return m3 !== 0;
  return m2 > (1 - m1) * PI;
}

/** The loss itself; with the rule "none" where refloss refuses its rule as one that cannot act. */
export function settled(loss) {
  const { head, refused } = LOSSES[loss.name];
  return refused && !canAct(head(loss, 1)) ? { ...loss, boundary: "none" } : loss;
}

/** What Python prints for a loss, and reads. */
export function expression(loss) {
  const said = ({ options, whole }, value) => {
    if (value === null) return "None";
    return options && !whole ? `'${value}'` : whole || !Number.isInteger(value) ? String(value) : value.toFixed(1);
  };
  const shown = settingsOf(loss.name).filter(({ name }) => name !== "gradient" || loss.gradient !== "exact");
  return `${loss.name}(${shown.map((setting) => `${setting.name}=${said(setting, loss[setting.name])}`).join(", ")})`;
}

// ----------------------------------------------------------------------------------------------- loss and its gradient

/** What a loss, whose target is class 1, makes of x at the angles θ from w₁ and θ₂ from w₂. */
function logits(loss, theta, theta2, norm) {
  const head = LOSSES[loss.name].head(loss, norm), detached = loss.gradient === "detached";
  const { m1 = 1, m2 = 0, m3 = 0, others = {} } = head, threshold = cos(m1 * theta + m2) - m3;
  const [second, further] = [theta2, PI / 2].map((angle) => other(angle, others, threshold, detached));
  return { head, target: curve(theta, head, detached), second, further };
}

/**
 * ψ, ψ′, p, the loss and the length of ∂L/∂x, at θ from w₁ on the half circle on which w₂ lies.
 *
 * At θ = 0 and θ = π the length is that of the limit.
 */
export function at(loss, theta, { between, classes, norm }) {
  const { head, target, second, further } = logits(loss, theta, abs(theta - between), norm);
  const s = loss.s ?? norm, z = [target.psi, second.eta, further.eta].map((f) => s * f);
  const top = max(z[0], z[1], classes > 2 ? z[2] : -Infinity), extra = classes - 2;
  const [one, two, rest] = [exp(z[0] - top), exp(z[1] - top), extra ? extra * exp(z[2] - top) : 0];
  const sum = one + two + rest, p = one / sum, p2 = two / sum, pRest = rest / sum, q = p2 + pRest;
  const along = s * (p2 * second.slope * sign(theta - between) - q * target.slope); // ∂L/∂θ on the circle
  const across = extra ? (s * pRest * further.slope) / sqrt(extra) : 0; // along further class weights
  const radial = // ∂L/∂‖x‖
    (loss.s == null ? p2 * second.eta + pRest * further.eta - q * target.psi : 0) -
    q * s * target.byM2 * (head.perNorm ?? 0) + (head.termSlope ?? 0);
  return {
    psi: target.psi,
    slope: target.slope,
    eta: second.eta,
    p,
    loss: (z[0] === top ? log1p((two + rest) / one) : log(sum) + top - z[0]) + (head.term ?? 0),
    gradient: hypot(along / norm, across / norm, radial),
    part: `${target.part} ${second.part} ${further.part} ${sign(theta - between)}`,
  };
}

/** Whether the target's logit is the largest, at an angle from w₁ around the circle; w₂ is at `between`. */
function leads(loss, turn, { between, classes, norm }) {
  const [theta, theta2] = [turn, turn - between].map((angle) => abs(angle - 2 * PI * Math.round(angle / (2 * PI))));
  const { target, second, further } = logits(loss, theta, theta2, norm);
  return target.psi > second.eta && (classes < 3 || target.psi > further.eta);
}

/** Where a function of an angle changes between two angles: its last place on the side of `low`, and the next. */
function change(value, low, high) {
  const first = value(low);
  for (let i = 0; i < 60; i += 1) {
    const middle = (low + high) / 2;
    if (value(middle) === first) low = middle;
    else high = middle;
  }
  return [low, high];
}

/** Arcs of the circle on which the target leads, as pairs of turns from −π to π. */
export function arcs(loss, scene, steps = 720) {
  const inside = (turn) => leads(loss, turn, scene), found = [];
  let start = inside(-PI) ? -PI : null;
  for (let i = 0; i < steps; i += 1) {
    const [low, high] = [i, i + 1].map((place) => -PI + (2 * PI * place) / steps);
    if (inside(low) === inside(high)) continue;
    const [end] = change(inside, low, high);
    if (start === null) start = end;
    else { found.push([start, end]); start = null; }
  }
  return start === null ? found : [...found, [start, PI]];
}

/** The angle from w₁ towards w₂ at which the target's lead ends; null where it does not lead at w₁. */
export const borderOf = (arcsOfTarget) => arcsOfTarget.find(([start, end]) => start <= 0 && end >= 0)?.[1] ?? null;

// ------------------------------------------------------------------------------------------------------------ the page

const STEPS = 240;
const CHART = { width: 320, height: 232, left: 38, right: 10, top: 8, bottom: 26 };
const RADIUS = 88;
const SCENE = {
  theta: number("theta", "", 0, 3.14, 0.01, 0.55),
  between: number("between", "", 0.1, 3.14, 0.01, 1.57),
  classes: choice("classes", "", ["2", "10", "100", "1000", "10000", "100000", "1000000"], 2),
  norm: number("norm", "", 1, 120, 1, 20),
};
SCENE.classes.whole = true;

/** What each chart shows of `at`; `also` are lines for comparison, and `low`, `high` what it shows in any case. */
const CHARTS = {
  psi: { low: -1, high: 1, also: { cosine: (_, theta) => cos(theta), eta: ({ eta }) => eta } },
  slope: { low: -1, high: 0, also: { cosine: (_, theta) => -sin(theta) } },
  p: { low: 0, high: 1, also: {} },
  gradient: { low: 0, high: 0, also: {} },
};
const ROWS = ["psi", "slope", "p", "loss", "gradient", "border", "gap"];

const EMPTY_CHART = '<g></g><path class="at"/><path class="cosine"/><path class="eta"/><path class="second"/>' +
  '<path class="first"/><circle class="second" r="4"/><circle class="first" r="4"/>';

const state = { loss: parsed("ArcFace"), pinned: null, scene: {} };
const form = document.querySelector("form.explorer");
const find = (selector, under = form) => under.querySelector(selector);
const said = (value) => (value === null ? "‖x‖" : String(value).replace("-", "−"));
const rounded = (value) => {
  if (value === null) return "none";
  const small = value !== 0 && abs(value) < 1e-3, large = abs(value) >= 1e5;
  return said(small || large ? value.toExponential(2) : value.toFixed(4));
};
const setAll = (element, attributes) => Object.entries(attributes).forEach((pair) => element.setAttribute(...pair));

/** θ and what `at` says there, in runs between which something may jump. */
function sampled(loss, scene) {
  const runs = [[]];
  const add = (theta) => runs.at(-1).push([theta, at(loss, theta, scene)]);
  add(0);
  for (let i = 1; i <= STEPS; i += 1) {
    const [theta, before] = [(PI * i) / STEPS, runs.at(-1).at(-1)[0]];
    const part = (angle) => at(loss, angle, scene).part;
    if (part(before) !== part(theta)) {
      const [end, start] = change(part, before, theta);
      add(end);
      runs.push([]);
      add(start);
    }
    add(theta);
  }
  return runs;
}

/** Numbers of one, two or five times a power of ten, from the first at or above `low` on. */
function ticks(low, high) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const places = max(0, -Math.floor(Math.log10(step) + 1e-9)), first = ceil(low / step - 1e-9);
  const values = [];
  for (let i = first; i * step <= high + 1e-9 * step; i += 1) values.push([i * step, said((i * step).toFixed(places))]);
  return values;
}

const across = (theta) => CHART.left + ((CHART.width - CHART.left - CHART.right) * theta) / PI;

function drawChart(name, curves, theta) {
  const svg = find(`svg[data-chart=${name}]`), { low, high, also } = CHARTS[name];
  const own = curves[0].runs.flat(), lines = Object.values(also);
  const values = [
    ...lines.flatMap((value) => own.map(([angle, there]) => value(there, angle))),
    ...curves.flatMap(({ runs }) => runs.flat().map(([, there]) => there[name])),
  ];
  const least = min(low, ...values), most = max(high, ...values, least + 1e-9), room = 0.04 * (most - least);
  const [bottom, top] = [least - room, most + room];
  const up = (value) => CHART.top + ((CHART.height - CHART.top - CHART.bottom) * (top - value)) / (top - bottom);
  const point = (angle, value) => `${across(angle).toFixed(1)} ${up(value).toFixed(1)}`;
  const piece = (run, value) => `M${run.map(([angle, there]) => point(angle, value(there, angle))).join("L")}`;
  const path = (runs, value) => runs.map((run) => piece(run, value)).join("");
  const horizontal = ticks(least, most).map(([value, text]) =>
    `<path d="M${CHART.left} ${up(value)}H${CHART.width - CHART.right}"/>` +
    `<text class="y" x="${CHART.left - 5}" y="${up(value)}">${text}</text>`);
  const vertical = ["0", "π/4", "π/2", "3π/4", "π"].map((text, i) => [across((PI * i) / 4), text]).map(([x, text]) =>
    `<path d="M${x} ${CHART.top}V${CHART.height - CHART.bottom}"/>` +
    `<text x="${x}" y="${CHART.height - CHART.bottom + 14}">${text}</text>`);
  find("g", svg).innerHTML = [...horizontal, ...vertical].join("");
  for (const [line, value] of Object.entries(also)) {
    find(`path.${line}`, svg).setAttribute("d", path(curves[0].runs, value));
  }
  for (const [place, which] of ["first", "second"].entries()) {
    const drawn = curves[place];
    find(`path.${which}`, svg).setAttribute("d", drawn ? path(drawn.runs, (there) => there[name]) : "");
    const dot = find(`circle.${which}`, svg);
    dot.style.display = drawn ? "" : "none";
    if (drawn) setAll(dot, { cx: across(theta), cy: up(drawn.here[name]) });
  }
  find("path.at", svg).setAttribute("d", `M${across(theta)} ${CHART.top}V${CHART.height - CHART.bottom}`);
}

/** A point of the circle, at a turn from w₁ towards w₂; the two lie on both sides of the top. */
const spot = (turn, radius) => {
  const angle = PI / 2 - state.scene.between / 2 + turn;
  return [radius * cos(angle), -radius * sin(angle)].map((place) => place.toFixed(1));
};
const arc = ([start, end], radius) =>
  `M${spot(start, radius)}A${radius} ${radius} 0 ${end - start > PI ? 1 : 0} 0 ${spot(end, radius)}`;

function drawCircle(curves) {
  const svg = find("svg[data-circle]"), { between, theta } = state.scene;
  for (const [place, which] of ["first", "second"].entries()) {
    const radius = RADIUS - 13 * place, own = curves[place]?.arcs ?? [];
    find(`path.${which}.one`, svg).setAttribute("d", own.map((each) => arc(each, radius)).join(""));
    const mirrored = own.map(([start, end]) => [between - end, between - start]);
    find(`path.${which}.two`, svg).setAttribute("d", mirrored.map((each) => arc(each, radius)).join(""));
  }
  const { border, gap } = curves[0], sector = () => `M0 0L${arc([border, between - border], RADIUS).slice(1)}Z`;
  find("path.band", svg).setAttribute("d", gap !== null && gap > 0 ? sector() : "");
  for (const [name, turn] of [["w1", 0], ["w2", between], ["x", theta]]) {
    const [x2, y2] = spot(turn, RADIUS), [x, y] = spot(turn, RADIUS + 20);
    setAll(find(`line.${name}`, svg), { x1: 0, y1: 0, x2, y2 });
    setAll(find(`text.${name}`, svg), { x, y });
  }
  const [cx, cy] = spot(theta, RADIUS);
  svg.querySelectorAll("circle.x").forEach((each) => setAll(each, { cx, cy }));
}

function draw() {
  const { scene, pinned } = state, losses = [state.loss, ...(pinned ? [pinned] : [])].map(settled);
  const curves = losses.map((loss) => {
    const own = arcs(loss, scene), border = borderOf(own);
    const gap = border === null ? null : Number((scene.between - 2 * border).toFixed(9));
    return { runs: sampled(loss, scene), here: at(loss, scene.theta, scene), arcs: own, border, gap };
  });
  Object.keys(CHARTS).forEach((name) => drawChart(name, curves, scene.theta));
  drawCircle(curves);
  for (const name of ROWS) {
    const cells = form.querySelectorAll(`tr[data-row=${name}] td`);
    cells.forEach((cell, place) => {
      const drawn = curves[place];
      cell.textContent = drawn ? rounded(name in drawn ? drawn[name] : drawn.here[name]) : "";
    });
  }
  const [first, second] = losses.map(expression);
  form.elements.expression.textContent = first;
  form.elements.pinned.textContent = second ?? "nothing";
  form.elements.unpin.disabled = !pinned;
  const { boundary } = state.loss;
  form.elements.remark.textContent = losses[0].boundary === boundary ? ""
    : `With these margins refloss refuses the rule "${boundary}", which could not act. Drawn with "none".`;
}

// ------------------------------------------------------------------------------------------------------ form, address

/** A label, the number beside it and a slider; or a list to choose from. */
function control({ name, label, low, high, step, options, otherwise }, value) {
  const id = `explorer-${name}`;
  if (options) {
    const list = options.map((each) => `<option${each === String(value) ? " selected" : ""}>${each}</option>`).join("");
    return `<div><label for="${id}">${label}</label> <select id="${id}" name="${name}">${list}</select></div>`;
  }
  const slider = `<input type="range" id="${id}" name="${name}" min="${low}" max="${high}" step="${step}"`;
  const free = otherwise === undefined ? "" :
    `<label><input type="checkbox" name="${name}-none"${value === null ? " checked" : ""}> s = ‖x‖</label>`;
  return `<div><label for="${id}">${label}</label> <output for="${id}">${said(value)}</output>` +
    `${slider} value="${value ?? otherwise}"${value === null ? " disabled" : ""}>${free}</div>`;
}

function showSettings() {
  const { loss } = state, shown = settingsOf(loss.name).filter(({ label }) => label);
  form.elements.loss.value = loss.name;
  find(".settings").innerHTML = [...shown.slice(1), shown[0]].map((each) => control(each, loss[each.name])).join("");
}

function showScene() {
  for (const [name, value] of Object.entries(state.scene)) {
    form.elements[name].value = value;
    const output = find(`output[for=${form.elements[name].id}]`);
    if (output) output.textContent = said(value);
  }
}

/** What the form says of a setting, as the address has it. */
function textOf(name) {
  const free = form.elements[`${name}-none`];
  return free?.checked ? "None" : (form.elements[name]?.value ?? null);
}

function read(event) {
  const { name } = event.target;
  const chosen = form.elements.loss.value;
  if (name === "loss") {
    state.loss = parsed(chosen);
    showSettings();
  } else if (name in SCENE) {
    state.scene[name] = valueOf(SCENE[name], event.target.value);
    showScene();
  } else {
    state.loss = parsed(chosen, textOf);
    for (const setting of settingsOf(chosen)) {
      const input = form.elements[setting.name];
      if (!input || setting.options) continue;
      input.disabled = state.loss[setting.name] === null;
      if (!input.disabled) input.value = state.loss[setting.name];
      find(`output[for=${input.id}]`).textContent = said(state.loss[setting.name]);
    }
  }
  changed();
}

let written = 0;
function changed() {
  draw();
  clearTimeout(written);
  written = setTimeout(() => history.replaceState(history.state, "", `?${address()}${location.hash}`), 150);
}

/** The state as a query: settings by their names, those of the pinned loss after "pin-". */
function address() {
  const query = new URLSearchParams();
  for (const [first, loss, before] of [["loss", state.loss, ""], ["pin", state.pinned, "pin-"]]) {
    if (!loss) continue;
    query.set(first, loss.name);
    for (const { name, label } of settingsOf(loss.name)) if (label) query.set(before + name, loss[name] ?? "None");
  }
  Object.entries(state.scene).forEach(([name, value]) => query.set(name, value));
  return query;
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  const known = (name) => Object.hasOwn(LOSSES, query.get(name));
  state.loss = parsed(known("loss") ? query.get("loss") : "ArcFace", (name) => query.get(name));
  state.pinned = known("pin") ? parsed(query.get("pin"), (name) => query.get(`pin-${name}`)) : null;
  for (const [name, setting] of Object.entries(SCENE)) state.scene[name] = valueOf(setting, query.get(name));
}

function moveTo(theta) {
  state.scene.theta = valueOf(SCENE.theta, String(theta));
  showScene();
  changed();
}

/** Let a pointer that is held down on a drawing move x; `angleAt` is of a place in units of the drawing. */
function movable(svg, angleAt) {
  const move = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    moveTo(angleAt(place));
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    move(event);
  });
  svg.addEventListener("pointermove", (event) => svg.hasPointerCapture(event.pointerId) && move(event));
}

/** θ of a place on the chart, and of one around the circle: past π that of the nearer end. */
const ofChart = ({ x }) => (PI * (x - CHART.left)) / (CHART.width - CHART.left - CHART.right);
const ofCircle = ({ x, y }) => {
  const turn = Math.atan2(-y, x) - PI / 2 + state.scene.between / 2;
  const theta = turn - 2 * PI * Math.floor(turn / (2 * PI));
  return theta > 1.5 * PI ? 0 : theta;
};

async function copy() {
  const { expression: shown, remark } = form.elements;
  try {
    await navigator.clipboard.writeText(shown.textContent);
    remark.textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(shown);
    remark.textContent = "Selected, to be copied.";
  }
}

function start() {
  form.elements.loss.innerHTML = ["Classic", "Wider family"].map((group) => {
    const names = Object.keys(LOSSES).filter((name) => LOSSES[name].group === group);
    return `<optgroup label="${group}">${names.map((name) => `<option>${name}</option>`).join("")}</optgroup>`;
  }).join("");
  form.querySelectorAll("svg[data-chart]").forEach((svg) => {
    setAll(svg, { viewBox: `0 0 ${CHART.width} ${CHART.height}` });
    svg.innerHTML = EMPTY_CHART;
  });
  readAddress();
  showSettings();
  showScene();
  draw();
  form.addEventListener("input", read);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.copy.addEventListener("click", copy);
  form.elements.pin.addEventListener("click", () => { state.pinned = { ...state.loss }; changed(); });
  form.elements.unpin.addEventListener("click", () => { state.pinned = null; changed(); });
  form.querySelectorAll("svg[data-chart]").forEach((svg) => movable(svg, ofChart));
  movable(find("svg[data-circle]"), ofCircle);
  form.hidden = false;
}

start();
