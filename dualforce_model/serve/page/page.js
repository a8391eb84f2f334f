import { Player } from './player.js';
import { Microphone, SoundFile } from './voice.js';

const SOCKET_S = 5; // of the microphone's sound that may wait to be sent; a server that slow will not catch up
const FILE_BYTES = 64 * 1024; // of a file's sound that may wait
const OPTIONS = ['seed', 'steps', 'guidance_audio', 'guidance_reference'];
const $ = (id) => document.getElementById(id);

let about; // what the server says of itself
let picture; // File
let talk; // what is going on: {clock, voice, socket, player, ...}

function say(text, state) {
  $('status').textContent = text;
  if (state) document.body.dataset.state = state;
}

function fail(text) {
  $('error').textContent = text;
  $('error').hidden = !text;
  if (text) $('error').scrollIntoView({ block: 'nearest' });
}

// --- picture ---

function choosePicture(file) {
  if (!file || !about) return;
  fail('');
  if (file.size > about.limits.picture_bytes) {
    fail(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; the server takes ${about.limits.picture_bytes / 1e6} MB.`);
    return;
  }
  picture = file;
  URL.revokeObjectURL($('preview').src);
  $('preview').src = URL.createObjectURL(file);
  $('preview').alt = 'The chosen picture';
  $('preview').hidden = false;
  $('picture-name').textContent = file.name || 'pasted picture';
}

$('picture').addEventListener('change', () => choosePicture($('picture').files[0]));
for (const kind of ['dragover', 'dragleave', 'drop']) {
  $('drop').addEventListener(kind, (event) => {
    event.preventDefault();
    $('drop').classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') choosePicture(event.dataTransfer.files[0]);
  });
}
document.addEventListener('paste', (event) => choosePicture([...event.clipboardData.files].find((f) => f.type.startsWith('image/'))));

// --- voice ---

function voiceKind() {
  return document.querySelector('[name=voice]:checked').value;
}

for (const radio of document.querySelectorAll('[name=voice]')) {
  radio.addEventListener('change', () => {
    $('with-microphone').hidden = voiceKind() !== 'microphone';
    $('with-file').hidden = voiceKind() !== 'file';
  });
}
$('sound').addEventListener('change', () => { $('sound-name').textContent = $('sound').files[0]?.name ?? ''; });
$('hear').addEventListener('change', () => talk?.player?.mute(!$('hear').checked));

async function openVoice() {
  if (voiceKind() === 'microphone') return Microphone.open();
  if (!$('sound').files[0]) throw new Error('Choose a sound file first.');
  return SoundFile.open($('sound').files[0], about.limits.sound_seconds);
}

// --- conversation ---

async function start() {
  fail('');
  if (!picture) return fail('Choose a picture first.');
  const mine = talk = {}; // whatever belongs to another start is ignored
  mine.clock = new AudioContext(); // here, because browsers start sound only where somebody clicked
  busy(true);
  delete document.body.dataset.reason;
  say('Opening the voice …', 'opening');
  try {
    mine.voice = await openVoice();
  } catch (error) {
    if (mine !== talk) return;
    const denied = error.name === 'NotAllowedError' || error.name === 'NotFoundError';
    return over(denied ? 'No microphone: allow it for this page, or choose a sound file.' : error.message);
  }
  if (mine !== talk) return mine.voice.stop();
  say('Looking for the face …', 'opening');
  const socket = mine.socket = new WebSocket(new URL('talk', location.href.replace(/^http/, 'ws')));
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: 'start', rate: mine.voice.rate, options: options() }));
    socket.send(picture);
  };
  socket.onmessage = ({ data }) => mine === talk && (typeof data === 'string' ? hear(mine, JSON.parse(data)) : frame(mine, data));
  socket.onclose = ({ code }) => {
    if (mine !== talk || mine.ended) return;
    over(code === 1012 ? 'The server was stopped.' : `The connection was lost (${code}).`);
  };
}

function options() {
  const chosen = {};
  for (const name of OPTIONS) {
    if (name in about.options && $(name).value !== '') chosen[name] = Number($(name).value);
  }
  return chosen;
}

function hear(mine, message) {
  if (message.type === 'ready') begin(mine, message);
  if (message.type === 'end') {
    mine.ended = true;
    mine.player.end(message.frames);
  }
  if (message.type === 'error') {
    document.body.dataset.reason = message.reason;
    over(sentence(message.message));
  }
}

function begin(mine, ready) {
  const live = mine.voice instanceof Microphone;
  $('hint').hidden = true;
  document.body.dataset.played = 'yes';
  $('screen').scrollIntoView({ block: 'nearest' });
  mine.player = new Player(mine.clock, $('screen'), ready.fps, (state) => mine === talk && told(mine, state));
  mine.player.mute(live && !$('hear').checked);
  mine.meter = setInterval(() => {
    const time = Math.max(0, mine.player.time);
    $('level').value = mine.player.level;
    $('clock').textContent = `${time.toFixed(1)} s`
      + (live && !mine.stopping ? `, ${(mine.player.heard - time).toFixed(1)} s behind you` : '');
  }, 100);
  say(live ? 'Speak.' : 'Drawing …', 'waiting');
  const most = live ? SOCKET_S * mine.voice.rate * 4 : FILE_BYTES;
  mine.voice.start(mine.player, (samples) => {
    if (mine.socket.bufferedAmount > most) {
      if (live) over('The server is too slow for this: fewer steps may help.');
      return false;
    }
    mine.socket.send(samples);
    return true;
  }, () => endSound(mine));
}

function told(mine, state) {
  document.body.dataset.state = state;
  if (state === 'waiting') say('Waiting for the server …');
  if (state === 'playing') say(mine.voice instanceof Microphone ? 'Live:' : 'Playing:');
  if (state === 'done') {
    leave(mine);
    say(`Done: ${(mine.player.total / mine.player.fps).toFixed(1)} s.`, 'done');
  }
}

function endSound(mine) {
  if (mine.socket.readyState === WebSocket.OPEN) mine.socket.send(JSON.stringify({ type: 'end' }));
}

function frame(mine, data) {
  const number = new DataView(data).getUint32(0, true);
  mine.player.addFrame(number, new Blob([new Uint8Array(data, 8)]));
}

// The microphone's sound ends and is drawn to its last word; a file is left where it is.
function stop() {
  const mine = talk;
  if (mine?.player && mine.voice instanceof Microphone && !mine.stopping) {
    mine.stopping = true;
    mine.voice.stop();
    endSound(mine);
    return;
  }
  if (mine) leave(mine);
  say('Stopped.', 'stopped');
}

function over(text) {
  fail(text);
  leave(talk);
  say('Stopped.', 'stopped');
}

function leave(mine) {
  talk = undefined;
  clearInterval(mine.meter);
  $('level').value = 0;
  $('clock').textContent = '';
  mine.voice?.stop();
  mine.player?.close(mine.player.state);
  if (mine.clock.state !== 'closed') mine.clock.close();
  if (mine.socket) mine.socket.onclose = null;
  mine.socket?.close();
  busy(false);
}

function busy(yes) {
  $('start').disabled = yes;
  $('stop').disabled = !yes;
  for (const field of document.querySelectorAll('fieldset')) field.classList.toggle('busy', yes);
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  start();
});
$('stop').addEventListener('click', stop);

const answer = await fetch('about').catch(() => null);
if (answer?.ok) {
  about = await answer.json();
  $('facts').textContent = `${about.size} × ${about.size}, ${about.fps} frames per second; `
    + `the model listens ${Math.round(1000 * about.latency_s)} ms ahead of what it draws.`;
  for (const name of OPTIONS) {
    $(name).placeholder = about.options[name] ?? '';
    $(name).parentElement.hidden = !(name in about.options); // not for the client to choose
  }
  $('guidance').hidden = !Object.keys(about.options).some((name) => name.startsWith('guidance'));
  $('steps').max = about.limits.steps;
  document.body.dataset.state = 'idle';
} else {
  fail('The server does not answer. Load this page again.');
  $('start').disabled = true;
}
