"use strict";
// Shows the samples of a cell. Texts from outside are only ever set as text, never as markup.
(() => {
  const PAGE = 20;
  const MOST_FIELDS = 3;  // of a task, that are not folded
  const OUTCOMES = ["wrong", "right", "not run"];
  const CLASSES = ["wrong", "right", "error"];
  const NUMBERS = [["logprob", "log-probability"], ["margin", "margin"], ["rank", "rank"]];
  const byId = (id) => document.getElementById(id);

  const make = (tag, { text, name, ...rest } = {}, ...children) => {
    const found = document.createElement(tag);
    if (text !== undefined) found.textContent = text;
    if (name) found.className = name;
    for (const [key, value] of Object.entries(rest)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  };

  // Text that is read from left to right, with each stretch of it that is not in an element of its
  // own: else a name could turn around the numbers, slashes and names beside it.
  const RTL = "\\u0590-\\u08ff\\ufb1d-\\ufdff\\ufe70-\\ufefc\\u{10800}-\\u{10fff}\\u{1e800}-\\u{1efff}";
  const RIGHT_TO_LEFT = new RegExp(`([${RTL}](?:[${RTL} ,.!?\\-]*[${RTL}])?)`, "u");
  const isolated = (text) =>
    make("span", {}, ...text.split(RIGHT_TO_LEFT).map((part, place) => (place % 2 ? make("bdi", { text: part }) : part)));

  for (const found of document.querySelectorAll(".scripted")) found.hidden = false;

  // What is wider than its place says so, and is a stop of the Tab key; what is not is none.
  const noteWidth = (box) => {
    const isWider = box.scrollWidth > box.clientWidth + 1;
    let hint = box.previousElementSibling;
    if (!hint || !hint.classList.contains("wider")) {
      if (!isWider) {
        box.removeAttribute("tabindex");
        return;
      }
      hint = make("p", { name: "wider", text: "Wider than the window: scroll to the right for the rest." });
      box.before(hint);
    }
    hint.hidden = !isWider;
    if (isWider) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) noteWidth(target.closest(".scroll"));
  });
  for (const box of document.querySelectorAll(".scroll")) {
    widths.observe(box);
    widths.observe(box.firstElementChild);
  }

  const theme = byId("theme");
  theme.addEventListener("change", () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
  });

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.previousElementSibling;
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected: copy it with the keyboard";
      }
    });
  }

  const panel = byId("samples");
  if (!panel) return;

  const data = JSON.parse(byId("data").textContent);
  const { texts, runs } = data;
  const textAt = (number) => (number < 0 ? null : texts[number]);
  const count = (number, what) =>
    `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

  // One sample is a run and a number in its columns; a column that is no list has one value for all.
  const valueOf = (run, name, index) => {
    const column = run.columns[name];
    return Array.isArray(column) ? column[index] : column;
  };

  // What is looked for: a cell, and filters. An empty filter lets everything pass.
  const wanted = { run: null, cell: null, needle: "", control: "", outcome: "", together: runs.length > 1 };
  let isKept = false;
  let shown = [];
  let numShown = 0;

  // For each run, the samples at each place.
  const places = runs.map((run) => {
    const found = new Map();
    for (let index = 0; index < run.num_samples; index += 1) {
      const place = valueOf(run, "place", index);
      if (!found.has(place)) found.set(place, []);
      found.get(place).push(index);
    }
    return found;
  });
  const prefixes = runs.map((run) => new Map(run.places.map((place, number) => [place[0], number])));

  // --- filters ---------------------------------------------------------------------------------

  const form = byId("filters");
  const addSelect = (label, options, chosen, change) => {
    const id = `filter-${form.children.length}`;
    const select = make("select", { id });
    for (const [value, text] of options) {
      select.append(make("option", { value, text, dir: "auto" }));
    }
    select.value = chosen;
    select.addEventListener("change", () => {
      change(select.value);
      list();
    });
    form.append(make("div", {}, make("label", { for: id, text: label }), select));
    return select;
  };

  const needles = new Set();
  const controls = new Set();
  for (const run of runs) {
    const column = run.columns.needle;
    for (const number of Array.isArray(column) ? new Set(column) : [column]) {
      if (number >= 0 && run.num_samples) needles.add(texts[number]);
    }
    for (const control of run.controls) controls.add(control);
  }
  const sorted = [...needles].sort(new Intl.Collator("en", { numeric: true }).compare);
  if (needles.size > 1) {
    const options = sorted.map((name) => [`=${name}`, name]);
    addSelect("Needle", [["", "all needles"], ...options], "", (value) => { wanted.needle = value; });
  }
  if (controls.size) {
    const options = [...controls].map((name) => [`=${name}`, name]);
    const all = [["", "the test itself"], ...options, ["*", "test and controls"]];
    addSelect("Test or control", all, "", (value) => { wanted.control = value; });
  }
  const outcomes = [["", "all outcomes"], ["1", "right"], ["0", "wrong"], ["2", "not run"]];
  if (runs.length > 1) outcomes.push(["differs", "not the same in all results"]);
  const byOutcome = addSelect("Outcome", outcomes, "", (value) => { wanted.outcome = value; });
  let results = null;
  if (runs.length > 1) {
    const label = form.querySelector(`label[for=${byOutcome.id}]`);
    const differs = byOutcome.lastElementChild;
    // Side by side, a question is found if any of the results has the outcome; one alone differs
    // from none.
    const nameOutcome = () => {
      label.textContent = wanted.together ? "Outcome in at least one result" : "Outcome";
      differs.disabled = !wanted.together;
      if (differs.disabled && wanted.outcome === "differs") wanted.outcome = byOutcome.value = "";
    };
    const options = [["*", "all, side by side"], ...runs.map((run, number) => [String(number), run.label])];
    results = addSelect("Results", options, "*", (value) => {
      wanted.together = value === "*";
      if (value !== "*") wanted.run = Number(value);
      nameOutcome();
    });
    nameOutcome();
  }
  const everywhere = make("button", { type: "button", text: "All cells" });
  everywhere.addEventListener("click", () => {
    isKept = false;
    choose(null, null);
  });
  form.append(everywhere);
  form.addEventListener("submit", (event) => event.preventDefault());

  // --- which samples ---------------------------------------------------------------------------

  const passes = (run, index) => {
    if (wanted.needle && `=${textAt(valueOf(run, "needle", index))}` !== wanted.needle) return false;
    if (wanted.control === "*") return true;
    const control = valueOf(run, "control", index);
    return wanted.control ? `=${run.controls[control]}` === wanted.control : control < 0;
  };

  // The places whose samples belong to a cell: its own, and those of controls that have no depth.
  const placesOf = (number) => {
    const run = runs[number];
    if (wanted.cell === null) return null;
    const [prefix, frames] = wanted.cell;
    return [prefix, `${frames}/-/`, "-/-/"].map((one) => prefixes[number].get(one)).filter((one) => one !== undefined);
  };

  const samplesOf = (number) => {
    const run = runs[number];
    const found = [];
    const some = placesOf(number);
    if (some === null) {
      for (let index = 0; index < run.num_samples; index += 1) if (passes(run, index)) found.push(index);
    } else {
      for (const place of some) {
        for (const index of places[number].get(place) || []) if (passes(run, index)) found.push(index);
      }
    }
    return found;
  };

  // The numbers of the results that are looked at: all, or the chosen one.
  const looked = () => (wanted.together ? [...runs.keys()] : [wanted.run === null ? 0 : wanted.run]);

  // Groups of samples that ask the same: one of each run, or one alone.
  const find = () => {
    const groups = new Map();
    for (const number of looked()) {
      const run = runs[number];
      for (const index of samplesOf(number)) {
        const place = run.places[valueOf(run, "place", index)][0];
        const asked = ["name", "question", "answer"].map((name) => valueOf(run, name, index)).join(" ");
        const key = runs.length > 1 ? `${place} ${asked}` : index;
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push([number, index]);
      }
    }
    // A question is found if one of the results has the outcome; all that answered it are shown.
    return [...groups.values()].filter((group) => {
      if (!wanted.outcome) return true;
      const found = group.map(([number, index]) => String(valueOf(runs[number], "outcome", index)));
      return wanted.outcome === "differs" ? new Set(found).size > 1 : found.includes(wanted.outcome);
    });
  };

  // --- drawing ---------------------------------------------------------------------------------

  const bdi = (text) => make("bdi", { text });
  const long = (text) => make("bdi", { text, name: text.length > 400 ? "long" : "" });
  const numberText = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toString());

  const outcome = (run, index) => {
    const value = valueOf(run, "outcome", index);
    const found = make("span", { text: OUTCOMES[value], name: `outcome ${CLASSES[value]}` });
    if (valueOf(run, "approximate", index)) found.append(make("div", { text: "approximate", name: "numbers" }));
    return found;
  };

  const pairs = (list, entries) => {
    for (const [term, value] of entries) {
      if (value === null || value === undefined) continue;
      list.append(make("dt", {}, bdi(term)), make("dd", {}, value instanceof Node ? value : long(value)));
    }
    return list;
  };

  const readings = (run, index) => [
    [run.predicted, textAt(valueOf(run, "prediction", index))],
    ["error", textAt(valueOf(run, "error", index))],
    ...NUMBERS.map(([name, term]) => {
      const value = valueOf(run, name, index);
      return [term, value === null ? null : numberText(value)];
    }),
  ];

  const fieldAt = (run, name, index) => {
    const column = run.fields[name];
    return textAt(Array.isArray(column) ? column[index] : column);
  };

  // Pictures of what a sample shows: its needle, and others that its fields name.
  const picturesOf = (run, index) => {
    const names = [textAt(valueOf(run, "needle", index))];
    for (const name of Object.keys(run.fields)) names.push(...(fieldAt(run, name, index) || "").split(", "));
    const found = new Set(names.filter((name) => name !== null && Object.hasOwn(run.pictures, name)));
    return [...found].slice(0, 6).map((name) => {
      const source = byId(run.pictures[name]);
      return make("img", { src: source.src, alt: source.alt, title: name, loading: "lazy" });
    });
  };

  // The id of a sample: its place, what is asked, and the control, each read in its own direction.
  const headingOf = (run, index) => {
    const [prefix] = run.places[valueOf(run, "place", index)];
    const name = textAt(valueOf(run, "name", index));
    const control = valueOf(run, "control", index);
    const needle = textAt(valueOf(run, "needle", index));
    const isNeedle = control >= 0 && needle && name.startsWith(`${needle}/`);
    const parts = isNeedle ? [bdi(needle), isolated(name.slice(needle.length))] : [bdi(name)];
    return [bdi(prefix), ...parts];
  };

  const card = (group) => {
    const [number, index] = group[0];
    const run = runs[number];
    const outcomes = new Set(group.map(([one, at]) => valueOf(runs[one], "outcome", at)));
    const name = outcomes.size === 1 ? CLASSES[[...outcomes][0]] : "";
    const found = make("article", { name: `sample ${name}` });
    const about = make("div", { name: "about" });
    const pictures = picturesOf(run, index);
    if (pictures.length) about.append(make("div", { name: "shown" }, ...pictures));
    const heading = make("h3", {}, ...headingOf(run, index));
    const facts = [["question", textAt(valueOf(run, "question", index))], ["expected", textAt(valueOf(run, "answer", index))]];
    if (valueOf(run, "variant", index) >= 0) facts.push(["nearest accepted", textAt(valueOf(run, "variant", index))]);
    const inside = make("dl");
    pairs(inside, facts);
    if (runs.length === 1) {
      pairs(inside, [["outcome", outcome(run, index)], ...readings(run, index)]);
    }
    const texts = make("div", { name: "texts" }, heading, inside);
    const fields = Object.keys(run.fields)
      .map((field) => [field.replaceAll("_", " "), fieldAt(run, field, index)])
      .filter(([, value]) => value !== null);
    if (fields.length <= MOST_FIELDS) {
      pairs(inside, fields);
    } else {
      const summary = make("summary", { text: `${fields.length} fields of the task` });
      texts.append(make("details", {}, summary, pairs(make("dl"), fields)));
    }
    about.append(texts);
    found.append(about);
    if (runs.length > 1) found.append(sideBySide(group));
    return found;
  };

  const sideBySide = (group) => {
    const columns = ["result", "outcome", "predicted"];
    const table = make("table", { name: "plain" });
    const head = make("tr", {}, ...columns.map((text) => make("th", { scope: "col", text })));
    table.append(make("caption", { text: "What each result has", name: "unseen" }), make("thead", {}, head));
    const body = make("tbody");
    for (const [number, index] of group) {
      const run = runs[number];
      const error = textAt(valueOf(run, "error", index));
      const said = error === null ? textAt(valueOf(run, "prediction", index)) : error;
      const numbers = NUMBERS
        .map(([name, term]) => [term, valueOf(run, name, index)])
        .filter(([, value]) => value !== null)
        .map(([term, value]) => make("span", { text: `${term} ${numberText(value)}` }));
      body.append(
        make("tr", {},
          make("th", { scope: "row" }, isolated(run.label)),
          make("td", {}, outcome(run, index)),
          make("td", {}, said === null ? "–" : long(said), make("div", { name: "numbers" }, ...numbers))),
      );
    }
    table.append(body);
    return table;
  };

  // As the squares have it: a tie, such as 1/8, goes to the even digit, and not upwards.
  const twoDigits = (value) => {
    const below = Math.floor(value * 100);
    const isTie = Number.isInteger(value * 8) && value * 100 - below === 0.5;
    return (isTie && below % 2 === 0 ? below / 100 : value).toFixed(2);
  };

  const cellText = (run, cell) => {
    const [place, score, low, high, numScored, numRight, numErrors] = cell;
    const [, frames, row] = run.places[place];
    const parts = [`${frames.toLocaleString("en")} ${run.axis}, ${run.row} ${row}:`];
    const kind = run.is_approximate ? "approximate " : "";
    parts.push(score === null ? "no score" : kind + twoDigits(score));
    if (low !== null) parts.push(`(${twoDigits(low)} to ${twoDigits(high)} for needles like these in this cell)`);
    if (numScored) parts.push(`– ${numRight.toLocaleString("en")} of ${numScored.toLocaleString("en")} right`);
    if (numErrors) parts.push(`– ${numErrors.toLocaleString("en")} not run`);
    return parts.join(" ");
  };

  const lacksSamples = (run) =>
    run.is_published ? "A published table has no samples." : "No sample of this run has been run yet.";

  // Why nothing is found: there are no samples, or none of those that there are is wanted.
  const whyNone = () => {
    const order = looked();
    if (order.some((number) => runs[number].num_samples)) return "No sample has this cell and these filters.";
    return order.length === 1 ? lacksSamples(runs[order[0]]) : "None of these results has samples.";
  };

  const more = byId("more");
  const showMore = () => {
    const next = shown.slice(numShown, numShown + PAGE);
    numShown += next.length;
    byId("list").append(...next.map(card));
    more.hidden = numShown >= shown.length;
    const asked = runs.length > 1 ? "question" : "sample";
    byId("count").textContent = shown.length
      ? `${numShown.toLocaleString("en")} of ${count(shown.length, asked)}`
      : whyNone();
  };
  more.addEventListener("click", showMore);

  const list = () => {
    shown = find();
    numShown = 0;
    byId("list").replaceChildren();
    const about = byId("cell");
    about.replaceChildren();
    if (wanted.cell === null) {
      about.append(make("p", { text: "All cells." }));
    } else {
      for (const number of looked()) {
        const run = runs[number];
        const cell = run.cells.find((one) => run.places[one[0]][0] === wanted.cell[0]);
        if (!cell) continue;
        const line = make("p");
        if (runs.length > 1) line.append(isolated(run.label), ": ");
        line.append(cellText(run, cell));
        if (!run.num_samples && wanted.together) line.append(`. ${lacksSamples(run)}`);
        about.append(line);
      }
    }
    showMore();
    panel.scrollTop = 0;
  };

  // --- the maps --------------------------------------------------------------------------------

  let chosen = null;
  function choose(square, number) {
    if (chosen) {
      chosen.classList.remove("chosen");
      chosen.setAttribute("aria-selected", "false");
    }
    chosen = square;
    if (square === null) {
      wanted.cell = null;
    } else {
      square.classList.add("chosen");
      square.setAttribute("aria-selected", "true");
      wanted.run = number;
      if (results && !wanted.together) results.value = String(number);
      const run = runs[number];
      wanted.cell = run.places[run.cells[Number(square.dataset.cell)][0]];
    }
    list();
  }

  for (const map of document.querySelectorAll("table.map[data-run]")) {
    const number = Number(map.dataset.run);
    const rows = [...map.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    map.setAttribute("role", "grid");
    map.setAttribute("aria-readonly", "true");
    const isCell = (square) => square !== undefined && square.dataset.cell !== undefined;
    let current = null;
    rows.forEach((row, y) => row.forEach((square, x) => {
      if (!isCell(square)) return;
      square.tabIndex = -1;
      square.dataset.at = `${y},${x}`;
      square.setAttribute("aria-selected", "false");
      if (current === null) current = square;
    }));
    if (current === null) continue;
    current.tabIndex = 0;
    const move = (square) => {
      current.tabIndex = -1;
      current = square;
      current.tabIndex = 0;
      current.focus();
    };
    // The next square in a direction that is a cell: a map of positions has corners without any.
    const next = (dy, dx) => {
      let [y, x] = current.dataset.at.split(",").map(Number);
      do {
        y += dy;
        x += dx;
      } while (rows[y] && rows[y][x] && !isCell(rows[y][x]));
      return rows[y] && isCell(rows[y][x]) ? rows[y][x] : current;
    };
    const farthest = (row, isLast) => {
      const cells = row.filter(isCell);
      return cells[isLast ? cells.length - 1 : 0];
    };
    map.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const row = rows[Number(current.dataset.at.split(",")[0])];
      if (steps[event.key]) move(next(...steps[event.key]));
      else if (event.key === "Home") move(farthest(row, false));
      else if (event.key === "End") move(farthest(row, true));
      else if (event.key === "Enter" || event.key === " ") {
        isKept = !(isKept && chosen === current);
        choose(current, number);
      } else if (event.key === "Escape") {
        isKept = false;
        choose(null, null);
      } else return;
      event.preventDefault();
    });
    map.addEventListener("focusin", (event) => {
      const square = event.target.closest("td[data-cell]");
      if (square && !isKept && square !== chosen) choose(square, number);
    });
    let timer = 0;
    map.addEventListener("pointerover", (event) => {
      clearTimeout(timer);
      const square = event.target.closest("td[data-cell]");
      if (!square || event.pointerType === "touch" || isKept || square === chosen) return;
      timer = setTimeout(() => { if (!isKept) choose(square, number); }, 60);
    });
    map.addEventListener("pointerleave", () => clearTimeout(timer));
    map.addEventListener("click", (event) => {
      const square = event.target.closest("td[data-cell]");
      if (!square) return;
      clearTimeout(timer);
      isKept = !(isKept && chosen === square);
      choose(square, number);
      current.tabIndex = -1;
      current = square;
      current.tabIndex = 0;
    });
  }

  list();
  document.documentElement.dataset.ready = "true";
})();
