// Plays frames and sound together. The clock is WebAudio's, so the sound is never touched: frames are drawn by its time,
// and when the next frame is not there yet, the clock itself is stopped until a few are.

const AHEAD = 8; // frames that must be there before the clock starts (again): 0.32 s
const DECODE = 6; // frames that are decoded before their time

const closed = () => {}; // the clock may be closed while it stops or starts: all is over then

export class Player {
  constructor(clock, canvas, fps, told) {
    this.canvas = canvas;
    this.picture = canvas.getContext('2d');
    this.fps = fps;
    this.told = told; // called with 'waiting', 'playing', 'done'
    this.clock = clock; // an AudioContext of its own
    this.mixed = this.clock.createGain();
    this.meter = this.clock.createAnalyser();
    this.meter.fftSize = 512;
    this.mixed.connect(this.meter);
    this.meter.connect(this.clock.destination);
    this.running = false;
    this.stopped = this.stop(); // until there is something to show
    this.origin = this.clock.currentTime + 0.05;
    this.heard = 0; // seconds of sound put on the time line
    this.frames = new Map(); // number -> Blob, or ImageBitmap once it is decoded
    this.newest = -1;
    this.shown = -1;
    this.total = Infinity;
    this.state = 'waiting';
    this.watch = setInterval(() => this.look(), 50); // also in a hidden tab, where nothing is drawn
    this.draw = requestAnimationFrame(() => this.paint());
  }

  stop() {
    return this.clock.suspend().catch(closed);
  }

  // seconds of video that have passed
  get time() {
    return this.clock.currentTime - this.origin - (this.clock.outputLatency || 0);
  }

  addSound(samples, rate) {
    const buffer = this.clock.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    this.addBuffer(buffer);
  }

  addBuffer(buffer) {
    const source = this.clock.createBufferSource();
    source.buffer = buffer;
    source.connect(this.mixed);
    source.start(this.origin + this.heard);
    this.heard += buffer.duration;
  }

  mute(silent) {
    this.meter.disconnect();
    if (!silent) this.meter.connect(this.clock.destination);
  }

  addFrame(number, blob) {
    this.frames.set(number, blob);
    this.newest = number;
  }

  end(total) {
    this.total = total;
  }

  // 0..1, of what is played
  get level() {
    const wave = new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(wave);
    return Math.min(1, 2 * Math.sqrt(wave.reduce((sum, x) => sum + x * x, 0) / wave.length));
  }

  look() {
    const wanted = Math.floor(this.time * this.fps);
    if (wanted >= this.total) return this.close('done');
    const there = this.newest + 1 >= this.total;
    const enough = this.newest - wanted >= AHEAD || there;
    if (!this.running && enough) {
      this.running = true;
      this.stopped.then(() => this.running && this.clock.resume()).catch(closed);
    } else if (this.running && this.newest <= wanted && !there) {
      this.running = false;
      this.stopped = this.stop();
    }
    this.tell(this.running ? 'playing' : 'waiting');
    for (const number of this.frames.keys()) {
      const frame = this.frames.get(number);
      if (number < wanted - 1) { // its time is over
        this.frames.delete(number);
        frame.close?.();
      } else if (number <= wanted + DECODE && frame instanceof Blob) {
        this.decode(number, frame);
      }
    }
  }

  async decode(number, blob) {
    this.frames.set(number, {}); // being decoded
    const bitmap = await createImageBitmap(blob);
    if (this.frames.has(number)) this.frames.set(number, bitmap);
    else bitmap.close();
  }

  paint() {
    this.draw = requestAnimationFrame(() => this.paint());
    const time = this.time;
    const wanted = Math.min(Math.floor(time * this.fps), this.total - 1);
    let best = -1;
    for (const [number, frame] of this.frames) {
      if (number <= wanted && number > best && frame instanceof ImageBitmap) best = number;
    }
    if (best <= this.shown) return;
    const frame = this.frames.get(best);
    if (this.canvas.width !== frame.width) {
      this.canvas.width = frame.width;
      this.canvas.height = frame.height;
    }
    this.picture.drawImage(frame, 0, 0);
    this.shown = best;
    this.canvas.dataset.frame = best;
    this.canvas.dataset.time = time.toFixed(3);
  }

  tell(state) {
    if (state === this.state) return;
    this.state = state;
    this.told(state);
  }

  close(state) {
    this.running = false;
    clearInterval(this.watch);
    cancelAnimationFrame(this.draw);
    for (const frame of this.frames.values()) frame.close?.();
    this.frames.clear();
    this.tell(state);
  }
}
