"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const reading = document.getElementById("reading");
  const spoken = document.getElementById("spoken");

  const write = (value, form) => {
    if (form === "percent") return (100 * value).toFixed(2) + "%";
    if (form === "integer") return Math.round(value).toLocaleString("en");
    if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2);
    return String(Number(value.toPrecision(5)));
  };
  const element = (name, text, colour) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (colour !== undefined && colour !== null) made.className = "c" + (colour % 7);
    return made;
  };

  class Chart {
    constructor(figure, group) {
      this.group = group;
      this.plot = figure.querySelector(".plot");
      this.cursor = figure.querySelector(".cursor");
      this.read = JSON.parse(figure.querySelector("script").textContent);
      this.lines = [...figure.querySelectorAll("g[data-switches]:not(.quiet)")];
      this.index = -1;
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerdown", (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => this.group.leave());
      this.plot.addEventListener("blur", () => this.group.leave());
      this.plot.addEventListener("keydown", (event) => this.key(event));
    }
    shown() {
      return this.read.series.filter((s) => s.switches.every((name) => this.group.on(name)));
    }
    stops() {
      const places = this.shown().flatMap((s) => s.places.map((p) => p[0]));
      return [...new Set(places)].sort((a, b) => a - b);
    }
    point(event) {
      const box = this.plot.getBoundingClientRect();
      const x = (1000 * (event.clientX - box.left)) / box.width;
      const y = (1000 * (event.clientY - box.top)) / box.height;
      this.show(x, y, false);
    }
    key(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") return this.group.leave();
      if (!step) return undefined;
      event.preventDefault();
      if (this.shown().some((s) => s.mark === "dots" && s.texts.length)) return this.walk(step);
      const stops = this.stops();
      if (!stops.length) return undefined;
      const here = this.index < 0 ? (step > 0 ? -1 : stops.length) : this.index;
      this.index = Math.min(Math.max(here + step, 0), stops.length - 1);
      return this.show(stops[this.index], null, true);
    }
    walk(step) {
      const all = this.shown().flatMap((s) => s.places.map((p, i) => ({ s, i, p })));
      all.sort((a, b) => a.p[0] - b.p[0] || b.p[1] - a.p[1]);
      const here = this.index < 0 ? (step > 0 ? -1 : all.length) : this.index;
      this.index = Math.min(Math.max(here + step, 0), all.length - 1);
      if (all[this.index]) this.tell([all[this.index]], true);
    }
    nearest(x, y) {
      const box = this.plot.getBoundingClientRect();
      const found = [];
      for (const s of this.shown()) {
        let best = null;
        s.places.forEach((p, i) => {
          const free = s.mark === "dots" && s.texts.length && y !== null;
          const dx = ((p[0] - x) * box.width) / 1000;
          const dy = free ? ((p[1] - y) * box.height) / 1000 : 0;
          const distance = Math.hypot(dx, dy);
          if (!best || distance < best.distance) best = { s, i, p, distance, free };
        });
        if (best) found.push(best);
      }
      if (!found.length) return [];
      const least = Math.min(...found.map((f) => f.distance));
      if (this.read.single && y !== null) {
        const place = found.find((f) => f.distance === least).p[0];
        const near = found.filter((f) => Math.abs(f.p[0] - place) < 0.6);
        return [near.reduce((a, b) => (Math.abs(b.p[1] - y) < Math.abs(a.p[1] - y) ? b : a))];
      }
      const dots = found.filter((f) => f.free);
      if (dots.length) {
        const one = dots.reduce((a, b) => (b.distance < a.distance ? b : a));
        return one.distance < 40 ? [one] : [];
      }
      const place = found.find((f) => f.distance === least).p[0];
      return found.filter((f) => Math.abs(f.p[0] - place) < 0.6);
    }
    show(x, y, loud) {
      const found = this.nearest(x, y);
      if (!found.length) return this.group.leave();
      return this.tell(found, loud);
    }
    tell(found, loud) {
      found.sort((a, b) => a.p[1] - b.p[1]);
      const first = found[0];
      const at = first.p[0];
      for (const chart of this.group.charts) {
        if (chart === this) chart.mark(at, found);
        else chart.follow(this.read.x, at);
      }
      if (this.read.single) this.light(first.s);
      this.fill(found);
      this.place(first, at);
      const words = [...reading.children].map((line) => line.innerText.replace(/\s*\n\s*/g, " "));
      if (loud) spoken.textContent = words.join(", ");
    }
    fill(found) {
      reading.replaceChildren();
      const first = found[0];
      const text = first.s.texts.length ? first.s.texts[first.s.texts.length > 1 ? first.i : 0] : "";
      if (text.includes("\n")) {
        const [head, ...lines] = text.split("\n");
        reading.append(element("b", head), ...lines.map((line) => element("div", line)));
        return;
      }
      const { x, y } = this.read;
      const where = first.s.texts.length && first.s.mark === "dots" ? null
        : x.names.length ? x.names[first.s.x[first.i]] : x.label + " " + write(first.s.x[first.i], x.form);
      const lines = found.slice(0, 12).map(({ s, i }) => [s.name, s.texts.length ? s.texts[s.texts.length > 1 ? i : 0] : write(s.y[i], y.form), s.colour]);
      const more = found.length - lines.length;
      if (where) reading.append(element("b", where));
      for (const [name, value, colour] of lines) {
        const row = element("div");
        row.append(element("i", undefined, colour), element("span", name), element("em", value));
        reading.append(row);
      }
      if (more > 0) reading.append(element("div", "and " + more + " more"));
    }
    place(first, at) {
      reading.hidden = false;
      const box = this.plot.getBoundingClientRect();
      const left = box.left + (at * box.width) / 1000;
      const size = reading.getBoundingClientRect();
      const room = root.clientWidth;
      let place = left + 14;
      if (place + size.width > room - 8) place = left - size.width - 14;
      place = Math.min(Math.max(8, place), Math.max(8, room - size.width - 8));
      const down = box.top + (first.p[1] * box.height) / 1000;
      const top = Math.min(Math.max(down - size.height / 2, box.top - 8), Math.max(box.top, box.bottom - size.height));
      reading.style.left = place + window.scrollX + "px";
      reading.style.top = top + window.scrollY + "px";
    }
    follow(x, at) {
      const own = this.read.x;
      if (!x.label || x.label !== own.label || !x.ends || !own.ends) return;
      const value = x.ends[0] + (at / 1000) * (x.ends[1] - x.ends[0]);
      const place = (1000 * (value - own.ends[0])) / (own.ends[1] - own.ends[0]);
      if (place >= 0 && place <= 1000) this.mark(place, []);
    }
    mark(at, found) {
      this.cursor.hidden = false;
      this.cursor.style.left = at / 10 + "%";
      this.cursor.replaceChildren();
      for (const { s, p } of found) {
        const dot = element("i", undefined, s.colour);
        dot.style.top = p[1] / 10 + "%";
        this.cursor.append(dot);
      }
    }
    light(series) {
      const chosen = this.read.series.indexOf(series);
      this.group.box.toggleAttribute("data-hot", chosen >= 0);
      this.lines.forEach((line, i) => line.classList.toggle("hot", i === chosen));
    }
    clear() {
      this.cursor.hidden = true;
      if (this.read.single) this.light(null);
    }
  }

  class Group {
    constructor(box) {
      this.box = box;
      this.buttons = [...box.querySelectorAll("[data-switch]")];
      this.state = new Map(this.buttons.map((b) => [b.dataset.switch, b.getAttribute("aria-pressed") === "true"]));
      this.lines = [...box.querySelectorAll("g[data-switches]")].map((line) => [line, JSON.parse(line.dataset.switches)]);
      this.charts = [...box.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure, this));
      for (const button of this.buttons) {
        button.addEventListener("click", () => this.toggle(button));
        button.addEventListener("pointerenter", () => this.hot(button.dataset.switch));
        button.addEventListener("pointerleave", () => this.hot(null));
      }
    }
    on(name) {
      return this.state.get(name) !== false;
    }
    toggle(button) {
      const name = button.dataset.switch;
      this.state.set(name, !this.on(name));
      button.setAttribute("aria-pressed", String(this.on(name)));
      for (const [line, names] of this.lines) line.toggleAttribute("hidden", !names.every((n) => this.on(n)));
      for (const chart of this.charts) chart.index = -1;
      this.leave();
    }
    hot(name) {
      const lit = name !== null && this.on(name);
      this.box.toggleAttribute("data-hot", lit);
      for (const [line, names] of this.lines) line.classList.toggle("hot", lit && names.includes(name));
    }
    leave() {
      reading.hidden = true;
      for (const chart of this.charts) chart.clear();
    }
  }
  for (const box of document.querySelectorAll("[data-group]")) new Group(box);

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.order !== undefined ? Number(cell.dataset.order) : cell.textContent;
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const body = table.tBodies[0];
    table.querySelectorAll("th button").forEach((button, column) => {
      button.addEventListener("click", () => {
        const head = button.parentElement;
        const rising = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("number"));
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const empty = (value) => value === "";
        const rows = [...body.rows];
        rows.sort((one, other) => {
          const [a, b] = [key(one, column), key(other, column)];
          if (empty(a) || empty(b)) return empty(a) - empty(b);
          const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
          return rising ? order : -order;
        });
        body.append(...rows);
      });
    });
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
