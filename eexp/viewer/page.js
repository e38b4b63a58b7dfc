(() => {
  const { $, element, many, wordsOf, withMarks, folded } = eexpPage;
  const data = JSON.parse($("data").textContent);
  const choice = { q: "", order: "place", descending: false, chosen: new Map() }; // group -> Set of bits
  let state = data.state, rows = [], next = 0, total = 0, current = null, shown = null, request = 0;

  // -- where answers come from: the page itself, or the server that sent it ------------------------------------------

  async function ask(what, parameters) {
    const answer = await fetch(`${what}?${new URLSearchParams(parameters)}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  }
  const server = {
    state: () => ask("state", {}),
    list: (start, count) => ask("list", {
      q: choice.q, order: choice.order, descending: Number(choice.descending), start, count,
      filters: [...choice.chosen.values()].filter((bits) => bits.size).map((bits) => [...bits].join(",")).join(";"),
    }),
    record: (entry) => ask("record", { entry }),
    find: async (id, file) => (await ask("find", file === undefined ? { id } : { id, file })).entry,
    picture: (entry, name) => `picture?${new URLSearchParams({ entry, name })}`,
  };

  /** The same answers from the records that the page holds. */
  function held() {
    const texts = new Map(), places = new Map(data.rows.map((row, i) => [row.entry, i]));
    const text = (i) => texts.get(i) ?? texts.set(i, JSON.stringify(data.shown[i].record ?? data.shown[i].text).toLowerCase()).get(i);
    const column = (row) => (choice.order === "place" ? row.entry : choice.order === "size" ? row.size : row.numbers[choice.order]);
    function matches() {
      const words = wordsOf(choice.q).map((word) => JSON.stringify(word).slice(1, -1));
      const groups = [...choice.chosen.values()].filter((bits) => bits.size);
      const found = data.rows.filter((row, i) => groups.every((bits) => row.values.some((bit) => bits.has(bit))) &&
        words.every((word) => text(i).includes(word)));
      const missing = (row) => column(row) === null || column(row) === undefined;
      const sign = choice.descending ? -1 : 1;
      return found.sort((a, b) => missing(a) - missing(b) || sign * (column(a) - column(b)) || a.entry - b.entry);
    }
    return {
      state: async () => data.state,
      list: async (start, count) => {
        const found = matches();
        return { rows: found.slice(start, start + count), next: start + count < found.length ? start + count : null, matches: found.length };
      },
      record: async (entry) => data.shown[places.get(entry)],
      find: async (id, file) => {
        const row = data.rows.find((row) => row.id === id && (file === undefined || row.file === Number(file)));
        return row ? row.entry : null;
      },
      picture: (entry, name) => data.pictures[name],
    };
  }
  const source = data.served ? server : held();

  // -- the list ------------------------------------------------------------------------------------------------------

  const COUNT = 50; // records that are listed at a time
  const plural = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");

  function drawFilters() {
    $("groups").replaceChildren(...state.groups.map((group) => element("fieldset", {}, element("legend", {}, group.name),
      ...group.values.slice(0, 20).map((value) => {
        const box = element("input", { type: "checkbox", checked: Boolean(choice.chosen.get(group.key)?.has(value.bit)) });
        box.dataset.filter = `${group.key}=${value.value}`;
        box.addEventListener("change", () => {
          const bits = choice.chosen.get(group.key) ?? new Set();
          if (box.checked) bits.add(value.bit); else bits.delete(value.bit);
          choice.chosen.set(group.key, bits);
          restart();
        });
        return element("label", { class: "check" }, box, element("span", {}, value.value),
          element("span", { class: "number" }, plural(value.count)));
      }))));
  }
  function rowButton(row) {
    const facts = [];
    if (row.type === "unreadable") facts.push("cannot be read");
    else facts.push(row.kind ? `${row.type}, ${row.kind}` : row.type);
    if (row.success !== undefined) facts.push(verdict(row.success));
    if (row.difference) facts.push(row.difference);
    if (row.steps !== undefined) facts.push(many(row.steps, "step", "steps"));
    for (const [mark, n] of Object.entries(row.marks ?? {})) facts.push(`${n} ${state.outcomes[mark]}`);
    const button = element("button", { type: "button", "aria-current": row.entry === current ? "true" : null },
      element("span", {}, row.title || row.id || "(empty)"), element("span", { class: "facts-line" }, ...facts.map((fact) => element("span", {}, fact))));
    button.dataset.entry = row.entry;
    button.addEventListener("click", () => open(row.entry));
    return element("li", {}, button);
  }
  function drawCount() {
    const filtered = choice.q || [...choice.chosen.values()].some((bits) => bits.size);
    const found = next === null ? plural(rows.length) : total !== null ? plural(total) : `${plural(rows.length)} and more`;
    $("count").textContent = filtered ? `${found} of ${plural(state.records)} records` : many(plural(state.records), "record", "records");
    $("chosen").textContent = [...choice.chosen.values()].reduce((n, bits) => n + bits.size, 0) || "";
    $("more").hidden = next === null;
    $("nothing").hidden = rows.length > 0 || next !== null;
    const at = rows.findIndex((row) => row.entry === current);
    $("previous").disabled = at <= 0;
    $("next").disabled = at === rows.length - 1 && next === null;
  }
  async function more() {
    const own = request;
    let missing = COUNT;
    while (missing > 0 && next !== null && own === request) {
      const answer = await source.list(next, missing);
      if (own !== request) return;
      next = answer.next;
      total = answer.matches ?? null;
      rows.push(...answer.rows);
      missing -= answer.rows.length;
      $("records").append(...answer.rows.map(rowButton));
      drawCount();
    }
  }
  /** List again from the beginning, after a change of what is searched for. */
  async function restart() {
    request += 1;
    rows = []; next = 0; total = null;
    $("records").replaceChildren();
    await more();
    if (rows.length && !rows.some((row) => row.entry === current)) await open(rows[0].entry, { focus: false });
    markCurrent();
  }
  function markCurrent() {
    const list = $("records");
    for (const button of list.querySelectorAll("button")) {
      if (Number(button.dataset.entry) === current) {
        button.setAttribute("aria-current", "true");
        eexpPage.keepInView(list, button);
      } else button.removeAttribute("aria-current");
    }
    drawCount();
  }
  async function walk(by) {
    const at = rows.findIndex((row) => row.entry === current) + by;
    if (at >= rows.length && next !== null) await more();
    if (rows[at]) await open(rows[at].entry);
  }

  // -- a record ------------------------------------------------------------------------------------------------------

  const words = () => wordsOf(choice.q);
  const verdict = (success) => (success ? "✓ success" : success === null ? "imagined" : "✗ failure");
  const tag = (kind, text) => element("span", { class: `tag ${kind}` }, text);
  const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2));
  const text = (value, kind) => folded(String(value ?? ""), kind, words());
  const line = (value, kind) => element("p", { class: kind }, ...withMarks(String(value ?? ""), words()));

  function pictureOf(place) {
    const link = place?.screenshot && source.picture(shown.entry, place.screenshot);
    return link ? element("img", { class: "picture", src: link, alt: "Picture of what was observed", loading: "lazy" }) : null;
  }
  /** What became of an action; `success` is the server's judgement by the rule of success, null where nothing can tell. */
  function tags(outcome, success) {
    if (!outcome) return [];
    return [outcome.valid === false ? tag("invalid", "refused") : null, success ? tag("yes", "success") : null,
      outcome.done && !success ? tag("done", "ended") : null,
      typeof outcome.score === "number" && outcome.score !== Number(Boolean(success)) ? tag("plain", `score ${number(outcome.score)}`) : null];
  }
  function branch(alternative, mark, successes) {
    const from = [alternative.source, alternative.pool ? `pool ${alternative.pool}` : null,
      typeof alternative.logprob === "number" ? `log-probability ${number(alternative.logprob)}` : null].filter(Boolean).join(", ");
    const score = alternative.outcome?.score;
    const card = element("li", { class: `branch ${mark}` }, line(alternative.action, "action"),
      element("p", { class: "from" }, tag(mark, state.outcomes[mark]), from, typeof score === "number" && score > 0 ? `, score ${number(score)}` : ""));
    if (alternative.thought) card.append(text(alternative.thought, "thought"));
    if (alternative.refused) card.append(text(alternative.refused, "observation"));
    if (alternative.outcome) card.append(text(alternative.outcome.observation, "observation"), pictureOf(alternative.outcome) ?? "");
    if (alternative.then?.length) {
      card.append(element("details", {}, element("summary", {}, `${many(alternative.then.length, "action", "actions")} more by a policy`),
        element("ol", { class: "then" }, ...alternative.then.map((step, i) => element("li", {}, step.thought ? text(step.thought, "thought") : null,
          line(step.action, "action"), text(step.observation, "observation"), ...tags(step, successes[i]))))));
    }
    return card;
  }
  function stateOf(step, label, ...parts) {
    const item = element("li", { class: "state", tabindex: "-1" },
      element("a", { class: "step", href: linkTo(shown.record.id, shown.file, step), "aria-label": `Link to ${label}` }, String(step)), ...parts);
    item.dataset.step = step;
    return item;
  }
  function madeOf(step) {
    const examples = (shown.related ?? []).filter((other) => other.step === step);
    if (!examples.length) return null;
    return element("p", { class: "examples" }, "made of this state: ", ...examples.map((other) => toRecord(other, other.kind ?? other.type)));
  }
  function toRecord(other, label) {
    const button = element("button", { type: "button" }, label);
    button.title = other.title;
    button.dataset.related = other.entry;
    button.addEventListener("click", () => open(other.entry, { step: shown.record?.type === "trajectory" ? undefined : other.step }));
    return button;
  }
  function trajectory(record) {
    const path = element("ol", { class: "path" }, ...record.steps.map((step, i) => {
      const marks = ["mistake", "repeated", "noise"].filter((one) => step[one]);
      const alternatives = step.alternatives ?? [];
      return stateOf(i, `step ${i}`, text(step.observation, "seen"), pictureOf(step),
        step.summary ? text(step.summary, "notes") : null, step.notes ? text(step.notes, "notes") : null, step.thought ? text(step.thought, "thought") : null,
        element("div", { class: step.mistake ? "" : "expert" }, line(step.action, "action"), ...marks.map((one) => tag("invalid", one))),
        alternatives.length ? element("ul", { class: "fan", "aria-label": `Alternatives to step ${i}` },
          ...alternatives.map((alternative, j) => branch(alternative, shown.marks[i][j], shown.then[i][j]))) : null,
        madeOf(i));
    }));
    if (record.outcome) path.append(stateOf(record.steps.length, `the end, ${record.steps.length}`, text(record.outcome.observation, "seen"), pictureOf(record.outcome), ...tags(record.outcome, shown.success)));
    const others = (shown.related ?? []).filter((other) => other.step === null || other.step === undefined);
    return [path, others.length ? element("p", { class: "examples" }, "made of it: ", ...others.map((other) => toRecord(other, other.kind ?? other.type))) : null];
  }
  function message(one, kind = "") {
    const calls = (one.tool_calls ?? []).map((call) => line(`${call.function?.name ?? ""} ${typeof call.function?.arguments === "string" ?
      call.function.arguments : JSON.stringify(call.function?.arguments ?? {})}`, "action"));
    return element("div", { class: `message ${kind}`, tabindex: "-1" }, element("div", { class: "role" }, one.name ? `${one.role} (${one.name})` : one.role),
      one.content ? text(one.content, "said") : null, ...calls);
  }
  function example(record) {
    const facts = [`weight ${record.weight}`, record.transition, record.reflection_by ? `thought by ${record.reflection_by}` : "",
      record.gain ? `gain ${number(record.gain)}` : "", record.prompt_style].filter(Boolean).join(" · ");
    const scores = (record.scores ?? []).map((score) => `${score.span}: log-probability ${number(score.logprob)}, ${many(score.tokens, "token", "tokens")}`);
    const spans = (record.spans ?? []).map((span) => (span.weight === 1 ? span.name : `${span.name} (weight ${span.weight})`));
    const parts = [element("p", { class: "note" }, facts)];
    if (shown.tokens) {
      const targets = shown.tokens.filter(([, learned]) => learned).length;
      parts.push(element("p", { class: "note" }, `${many(shown.tokens.length, "token", "tokens")}; the loss falls on the ${targets} marked ones.`),
        element("div", { class: "tokens message", tabindex: "-1" }, ...shown.tokens.map(([token, learned]) => element("span", { class: learned ? "learned" : null }, token))));
    } else parts.push(...record.prompt.map((one) => message(one)), ...record.completion.map((one) => message(one, "target")));
    if (spans.length) parts.push(element("p", { class: "note" }, `spans: ${spans.join(", ")}`));
    if (scores.length) parts.push(element("p", { class: "note" }, scores.join("; ")));
    return parts;
  }
  function preference(record) {
    const side = (name, kind) => element("section", { "aria-label": name }, element("h3", {}, name), ...record[name].map((one) => message(one, kind)),
      record[`${name}_outcome`] ? text(record[`${name}_outcome`], "seen") : null);
    return [element("p", { class: "note" }, record.worse ? `rejected because: ${record.worse}` : ""), ...record.prompt.map((one) => message(one)),
      element("div", { class: "pair-of" }, side("chosen", "target"), side("rejected", "rejected"))];
  }
  function turns(record) {
    const path = element("ol", { class: "path" }, ...(record.transcript ?? []).map((turn, i) => {
      const item = stateOf(i, `turn ${i}`, text(turn.observation, "seen"), turn.thought ? text(turn.thought, "thought") : null, line(turn.action, "action"),
        turn.valid === false ? tag("invalid", "refused") : null, turn.cut_off ? tag("invalid", "cut off at the token limit") : null,
        typeof turn.reward === "number" ? tag("plain", `reward ${number(turn.reward)}`) : null);
      if (turn.text && !turn.thought) item.append(element("details", {}, element("summary", {}, "as written"), text(turn.text, "seen")));
      return item;
    }));
    if (record.final) path.append(stateOf((record.transcript ?? []).length, `the end, ${(record.transcript ?? []).length}`, text(record.final, "seen")));
    return element("section", { "aria-label": record.model ?? "episode" }, element("h3", {}, record.model ?? "episode"),
      element("p", { class: "note" }, tag(record.success ? "yes" : record.success === null ? "plain" : "no", verdict(record.success)),
        `${many(record.steps, "step", "steps")}, ${record.invalid ?? 0} refused`), path);
  }
  function episode(record) {
    const others = (shown.related ?? []).filter((other) => other.type === "episode");
    const beside = element("div", { class: "pair-of" }, turns(record));
    const choose = element("p", { class: "examples" }, others.length ? "beside it, on the same task: " : "", ...others.map((other) => {
      const button = element("button", { type: "button" }, `${state.files[other.file]}: ${other.success ? "✓" : "✗"} ${other.model ?? ""}`);
      button.dataset.beside = other.entry;
      button.addEventListener("click", async () => {
        const answer = await source.record(other.entry), own = shown;
        shown = answer;
        const side = turns(answer.record);
        shown = own;
        beside.replaceChildren(beside.firstChild, side);
      });
      return button;
    }));
    return [choose, beside];
  }
  function reject(record) {
    const evidence = Object.entries(record.evidence ?? {}).map(([name, value]) => element("div", { class: "message" }, element("div", { class: "role" }, name),
      ...(Array.isArray(value) ? value : [value]).map((one) => text(typeof one === "string" ? one : JSON.stringify(one), "said"))));
    return [element("div", { class: "message rejected", tabindex: "-1" }, element("div", { class: "role" }, `set aside by ${record.stage}, ${record.file ?? "no file"}:${record.line ?? ""}`),
      text(record.error, "said")), ...evidence];
  }
  function changes(list) {
    return element("table", { class: "changes" }, element("thead", {}, element("tr", {}, ...[["th", "Field"], ["th", state.files[0]], ["th", state.files[1]]]
      .map(([name, label]) => element(name, { scope: "col" }, label)))), element("tbody", {}, ...list.map((one) => element("tr", {}, element("th", { scope: "row" }, one.path),
      element("td", { class: "before" }, one.before), element("td", { class: "after" }, one.after)))));
  }

  const KINDS = { trajectory, example, preference, episode, reject };
  /** A record as its type is shown or, where it holds what this page does not expect, as JSON. */
  function bodyOf(record) {
    try {
      return (KINDS[record.type] ?? (() => []))(record);
    } catch (error) {
      return [element("p", { class: "no" }, `Shown as JSON, since this record is not as expected: ${error.message}`),
        element("pre", { class: "unreadable", tabindex: "0" }, JSON.stringify(record, null, 1))];
    }
  }
  const textOf = (value) => (typeof value === "string" ? value : "");
  function draw() {
    const record = shown.record, id = textOf(record?.id), env = textOf(record?.env);
    const back = record && record.type !== "trajectory" && record.type !== "episode" ? (shown.related ?? [])[0] : undefined;
    $("title").textContent = record ? textOf(record.instruction) || id || record.type : "A line that cannot be read";
    $("place").replaceChildren([record?.type, textOf(record?.kind), id.startsWith(env) ? null : env, id].filter(Boolean).join(" · "), element("br"),
      `${state.files[shown.file]}, line ${shown.line} `);
    if (id) $("place").append(element("a", { href: linkTo(id, shown.file) }, "Link"));
    const parts = [];
    if (shown.error) parts.push(element("p", { class: "no" }, shown.error));
    if (shown.text !== undefined) parts.push(element("pre", { class: "unreadable", tabindex: "0" }, shown.text));
    if (shown.changes) parts.push(shown.changes.length ? changes(shown.changes) : element("p", { class: "note" }, "The same in both files."));
    if (back) parts.push(element("p", { class: "examples" }, "made from: ", toRecord(back, back.title)));
    if (record) {
      parts.push(...bodyOf(record));
      const whole = element("details", { class: "raw" }, element("summary", {}, "The record as JSON"));
      whole.addEventListener("toggle", () => { if (whole.open && whole.childElementCount === 1) whole.append(element("pre", { tabindex: "0" }, JSON.stringify(record, null, 1))); });
      if (Array.isArray(record.lineage) && record.lineage.length) parts.push(element("details", { class: "raw" }, element("summary", {}, "Lineage"),
        element("ol", { class: "lineage" }, ...record.lineage.map((entry) => element("li", {}, String(entry))))));
      parts.push(whole);
    }
    $("content").replaceChildren(...parts.filter((part) => part !== null && part !== undefined));
  }

  // -- moving --------------------------------------------------------------------------------------------------------

  function linkTo(id, file, step) {
    const link = new URLSearchParams({ id, file });
    if (step !== undefined) link.set("step", step);
    return `#${link}`;
  }
  const places = () => [...$("content").querySelectorAll(".state, .message")];
  function goTo(place, announced = true) {
    if (!place) return;
    for (const one of places()) one.classList.toggle("current", one === place);
    place.focus({ preventScroll: true });
    const box = place.getBoundingClientRect();
    if (box.top < 0 || box.bottom > innerHeight) place.scrollIntoView({ block: box.height > innerHeight ? "start" : "nearest" });
    if (announced && place.dataset.step !== undefined) note(shown.record.id, place.dataset.step);
  }
  function step(by) {
    const all = places(), at = all.findIndex((one) => one.classList.contains("current"));
    goTo(all[at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by]);
  }
  function note(id, at) {
    try {
      history.replaceState(null, "", id ? linkTo(id, shown.file, at) : " ");
    } catch { /* some browsers refuse it for files; the page works without */ }
  }
  async function open(entry, { step: at, focus = true } = {}) {
    try {
      shown = await source.record(entry);
    } catch (error) {
      const row = rows.find((one) => one.entry === entry);
      shown = { entry, file: row?.file ?? 0, line: row?.line ?? "?", error: error.message };
    }
    current = entry;
    draw();
    markCurrent();
    note(textOf(shown.record?.id), at ?? undefined);
    $("announce").textContent = `${shown.record?.type ?? "line"}: ${$("title").textContent}`;
    const head = document.querySelector(".head").getBoundingClientRect();
    if (focus && (head.top < 0 || head.bottom > innerHeight)) document.querySelector(".head").scrollIntoView({ block: "start" });
    if (at !== undefined && at !== null) goTo($("content").querySelector(`[data-step="${Number(at)}"]`), false);
  }
  async function fromHash() {
    const link = new URLSearchParams(location.hash.slice(1));
    if (!link.has("id")) return false;
    const entry = await source.find(link.get("id"), link.get("file") ?? undefined);
    if (entry === null || entry === undefined) return false;
    if (entry !== current) await open(entry, { step: link.get("step") ?? undefined });
    else if (link.has("step")) goTo($("content").querySelector(`[data-step="${Number(link.get("step"))}"]`), false);
    return true;
  }

  // -- following files that grow -------------------------------------------------------------------------------------

  async function follow() {
    const before = state;
    try {
      state = await source.state();
    } catch {
      $("progress").hidden = false;
      $("progress").textContent = "The server has ended; start eexp view again.";
      return;
    }
    const grown = state.records !== before.records;
    if (state.generation !== before.generation) { // the records have other numbers now
      drawFilters();
      current = null;
      await restart();
    } else if (grown) {
      drawFilters();
      if (next === null && choice.order === "place" && !choice.descending) next = before.records;
      if (rows.length < COUNT) await more();
      if (current === null && rows.length) await open(rows[0].entry, { focus: false });
      drawCount();
    }
    $("progress").hidden = !state.progress;
    $("progress").textContent = state.progress ?? "";
    if (state.reading || state.follow) setTimeout(follow, state.reading ? 500 : 2000);
  }

  // -- setting up ----------------------------------------------------------------------------------------------------

  $("order").append(...Object.entries(state.orders).map(([value, label]) => element("option", { value }, label)));
  $("order").addEventListener("change", () => { choice.order = $("order").value; restart(); });
  $("descending").addEventListener("change", () => { choice.descending = $("descending").checked; restart(); });
  let typing = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(async () => { choice.q = $("query").value; await restart(); if (shown) draw(); }, data.served ? 250 : 0);
  });
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => walk(-1));
  $("next").addEventListener("click", () => walk(1));
  $("more").addEventListener("click", more);
  addEventListener("hashchange", fromHash);
  eexpPage.setUpTools();
  eexpPage.bindKeys({
    n: () => walk(1), p: () => walk(-1), j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    a: () => $("content").classList.toggle("no-alternatives"),
    r: () => { document.querySelector("#content [data-related], #content [data-beside]")?.click(); },
    f: () => { $("filters").open = !$("filters").open; if ($("filters").open) $("groups").querySelector("input")?.focus(); },
  });
  $("viewer").hidden = false;
  drawFilters();
  (async () => {
    const link = await fromHash();
    await (link ? more() : restart());
    markCurrent();
    if (data.served) follow();
  })();
})();
