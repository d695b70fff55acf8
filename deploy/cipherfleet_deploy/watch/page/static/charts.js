"use strict";
// Charts of the page: uPlot in the page's colours, with a text for screen readers.

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const figureText = (value) => value === null || value === undefined ? "-" : String(Number(value.toPrecision(3)));

class Chart {
  // series: [{label, colour}], data[0] are seconds since 1970, or round numbers without `time`
  constructor(holder, series, {time = true, log = false, whole = false, height = 220} = {}) {
    this.holder = holder;
    this.series = series;
    this.options = {time, log, whole, height};
    this.data = [[], ...series.map(() => [])];
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(holder);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  set(data) {
    this.data = data;
    this.describe();
    if (this.plot) this.plot.setData(data);
    else this.draw();
    this.showLatest();
  }

  showLatest() {
    const {plot, data} = this;
    setTimeout(() => {  // uPlot clears the legend when it has drawn
      if (plot === this.plot && plot && data[0].length && !(plot.cursor.left >= 0)) plot.setLegend({idx: data[0].length - 1});
    });
  }

  describe() {
    const latest = this.series.map((each, k) => `${each.label} ${figureText(this.data[k + 1].at(-1))}`);
    this.holder.setAttribute("role", "img");
    this.holder.setAttribute("aria-label", `chart of ${this.data[0].length} points; latest: ${latest.join(", ")}`);
  }

  draw() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
    if (!this.holder.clientWidth) return;
    const {time, log, whole, height} = this.options;
    const axis = {stroke: colourOf("soft"), grid: {stroke: colourOf("rule"), width: 1}, ticks: {show: false}};
    const drawn = this.series.map((each) => ({
      label: each.label, stroke: colourOf(each.colour), width: 2, spanGaps: false,
      points: {show: (_plot, _k, first, last) => last - first < 12, size: 5},
      value: (_plot, value) => figureText(value),
    }));
    const decades = {
      splits: (_plot, _k, low, high) => {
        const first = Math.ceil(Math.log10(low)), count = Math.max(0, Math.floor(Math.log10(high)) - first + 1);
        return Array.from({length: count}, (_each, k) => 10 ** (first + k));
      },
      values: (_plot, marks) => marks.map((mark) => mark.toExponential(0)),
    };
    this.plot = new uPlot({
      width: this.holder.clientWidth, height, cursor: {drag: {x: false, y: false}},
      scales: {
        x: {time},
        y: log ? {distr: 3} : {range: (_plot, _low, high) => [0, Math.max(high || 0, 1) * 1.1]},
      },
      axes: [
        time ? {...axis, space: 90, values: (_plot, marks) => marks.map(clock)} : axis,
        {...axis, size: 64, ...(log ? decades : {}), ...(whole ? {incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]} : {})},
      ],
      series: [time ? {label: "Time", value: (_plot, value) => value === null ? "-" : clock(value)} : {label: "Round"}, ...drawn],
    }, this.data, this.holder);
    this.showLatest();
  }

  resize() {
    const width = this.holder.clientWidth;
    if (!width) return;
    if (!this.plot) this.draw();
    else if (this.plot.width !== width) this.plot.setSize({width, height: this.options.height});
  }
}
