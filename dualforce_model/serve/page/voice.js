// Where the sound comes from. Both send pieces until they are stopped or at their end, and give the player the same.

const AHEAD_S = 3; // a file is sent so far ahead of what is seen, so neither side must hold much
const PIECE_S = 0.2;
export const RATE = 16000; // of a file's sound as it is sent; a microphone's is its own

// The microphone, as it comes.
export class Microphone {
  static async open() {
    if (!navigator.mediaDevices) throw new Error('Browsers give the microphone to pages of this machine or over https only; choose a sound file.');
    const wish = { echoCancellation: true, noiseSuppression: false, autoGainControl: true, channelCount: 1 };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wish });
    const context = new AudioContext();
    await context.audioWorklet.addModule('capture.js');
    return new Microphone(stream, context);
  }

  constructor(stream, context) {
    this.stream = stream;
    this.context = context;
    this.rate = context.sampleRate;
    this.node = new AudioWorkletNode(context, 'capture', { numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' });
  }

  start(player, send) {
    this.node.port.onmessage = ({ data }) => {
      player.addSound(data, this.rate);
      send(data);
    };
    this.source = this.context.createMediaStreamSource(this.stream);
    this.source.connect(this.node);
  }

  stop() {
    this.node.port.onmessage = null;
    this.stream.getTracks().forEach((track) => track.stop());
    if (this.context.state !== 'closed') this.context.close();
  }
}

// A sound file, decoded by the browser.
export class SoundFile {
  static async open(file, mostSeconds) {
    const bytes = await file.arrayBuffer();
    let sound;
    try {
      sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
    } catch {
      throw new Error(`This browser cannot read sound from ${file.name}.`);
    }
    if (sound.duration > mostSeconds) {
      throw new Error(`${file.name} has ${Math.round(sound.duration)} s of sound; this server takes ${mostSeconds} s.`);
    }
    return new SoundFile(sound);
  }

  constructor(sound) {
    this.rate = RATE;
    this.sound = sound;
    this.samples = new Float32Array(sound.length); // all channels as one
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
      sound.getChannelData(channel).forEach((x, at) => { this.samples[at] += x / sound.numberOfChannels; });
    }
    this.sent = 0;
  }

  start(player, send, ended) {
    player.addBuffer(this.sound);
    const pieces = () => {
      const until = Math.min(this.samples.length, (Math.max(0, player.time) + AHEAD_S) * RATE);
      while (this.sent < until) {
        const piece = this.samples.subarray(this.sent, this.sent + PIECE_S * RATE);
        if (!send(piece)) return; // the socket is full; later
        this.sent += piece.length;
      }
      if (this.sent < this.samples.length) return;
      this.stop();
      ended();
    };
    this.timer = setInterval(pieces, 50);
    pieces();
  }

  stop() {
    clearInterval(this.timer);
  }
}
