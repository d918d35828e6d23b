// The status page in a real browser: a running gateway in front of the simulator, some traffic, and the eyes of a person.
//
//   tests/page/run        CHROMIUM: path of the browser, SHOTS: folder for the screenshots

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { chromium } from 'playwright-core';

const program = process.env.PROGRAM ?? '../../target/debug/defender-gateway';
const browserPath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const shots = process.env.SHOTS ?? '../../target/page';
const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const path = '/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId';

let demo;
let browser;
let data;
let admin;

before(async () => {
  await mkdir(shots, { recursive: true });
  demo = spawn(program, ['demo'], { stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: demo.stdout })) {
    data ??= line.match(/curl -s (http:\/\/[^/]+)/)?.[1];
    admin ??= line.match(/Watch it: (http:\/\/[^/]+)/)?.[1];
    if (data && admin) break;
  }
  assert.ok(data && admin, 'the demo says where it listens');
  demo.stdout.resume();
  browser = await chromium.launch({
    executablePath: browserPath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  if (demo && demo.exitCode === null) {
    demo.kill('SIGTERM');
    await once(demo, 'exit');
  }
});

// A page that fails the test for whatever a person would not forgive: script errors, and requests to elsewhere.
async function open(options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const trouble = [];
  page.on('pageerror', (error) => trouble.push(`script error: ${error}`));
  page.on('console', (message) => message.type() === 'error' && trouble.push(`console: ${message.text()}`));
  page.on('request', (request) => request.url().startsWith(admin) || trouble.push(`asked elsewhere: ${request.url()}`));
  // Until a person hears otherwise, there is an hour of samples to draw.
  if (options.past) await page.route('**/history', (route) => route.fulfill({ json: options.past }));
  await page.goto(admin);
  await page.waitForFunction(() => document.querySelector('#regions tbody td.good') && document.querySelector('#answered svg'));
  return { page, trouble, close: () => context.close() };
}

// An hour that has seen something: a burst, a quiet time, a spent quota.
function hour() {
  const steps = [...Array(180).keys()];
  const wave = (most, every) => steps.map((step) => Math.round(most * Math.abs(Math.sin(step / every))));
  return {
    step_s: 20, steps: 180, last_s: 3, from_memory: wave(120, 23), shared_call: wave(40, 17), own_call: wave(9, 31),
    refused: steps.map((step) => (step > 100 && step < 130 ? 12 : 0)), failed: steps.map((step) => (step === 60 ? 4 : 0)), invalid: wave(2, 11), gone: wave(1, 7),
    upstream_calls: wave(9, 31), waiting: steps.map((step) => (step > 90 && step < 130 ? step - 90 : 0)),
    remaining: steps.map((step) => [100 - (step % 90), 1500 - 8 * step]),
  };
}

test('the figures are those of /status', async () => {
  const { page, trouble, close } = await open();
  const status = await (await fetch(`${admin}/status`)).json();
  assert.equal(await page.textContent('#mode'), status.mode);
  const shown = await page.locator('#regions tbody tr').count();
  assert.equal(shown, status.regions.length);
  assert.ok((await page.textContent('#regions tbody tr')).includes('in use'), 'the region in use is listed first');
  assert.match(await page.textContent('#windows'), /of 100 calls left this minute/);
  assert.match(await page.textContent('#windows'), /of 1,500 calls left this hour/);
  assert.ok((await page.textContent('#saved')).includes(`Requests${status.saved.requests.toLocaleString('en')}Upstream calls${status.saved.upstream_calls}`));
  assert.ok((await page.textContent('#saved')).includes('Merging'));
  assert.match(await page.textContent('#token'), /client secret.*good for/);
  // The demo ends with many refusals; the latest are listed with the reason.
  assert.match(await page.textContent('#trouble tbody'), /32\s*429.*history_by_definition.*TooManyRequests/, 'the latest 32, as one row');
  assert.equal(await page.title(), `${status.host} · tenant ${status.tenant} · cloud ${status.cloud} – defender-gateway`);
  // Refusals are a problem for a minute, and the banner says why. A problem may come or go between the two requests, so both are asked until they agree.
  const agreed = async () => {
    const { problems } = await (await fetch(`${admin}/status`)).json();
    return isDeepStrictEqual(await page.locator('#problems .what span').allTextContents(), problems.map((one) => one.code));
  };
  for (const end = Date.now() + 30_000; !(await agreed()); await page.waitForTimeout(200)) {
    assert.ok(Date.now() < end, 'the banner lists the problems of /status');
  }
  assert.ok(!(await page.textContent('main')).match(/undefined|NaN|\[object/), 'no figure is a mistake');
  assert.deepEqual(trouble, []);
  await close();
});

// A gateway that can reach nothing: neither sign-in nor a host of Defender's.
async function lost() {
  const nowhere = 'http://127.0.0.1:9';
  const env = {
    DEFENDER_GATEWAY_SERVER_LISTEN: '127.0.0.1:0', DEFENDER_GATEWAY_ADMIN_LISTEN: '127.0.0.1:0',
    DEFENDER_GATEWAY_DEFENDER_REGIONS: `eu=${nowhere}`, DEFENDER_GATEWAY_CREDENTIALS_AUTHORITY: nowhere,
    AZURE_TENANT_ID: '5f0e2a1c-3d4b-4c6d-8e9f-0a1b2c3d4e5f', AZURE_CLIENT_ID: 'a1b2c3d4-5e6f-4a0b-9c8d-7e6f5a4b3c2d', AZURE_CLIENT_SECRET: 'secret',
  };
  const gateway = spawn(program, ['run'], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const lines = createInterface({ input: gateway.stderr });
  let address;
  for await (const line of lines) {
    address ??= line.match(/admin on (http:\/\/[^\s"/]+)/)?.[1];
    if (address) break;
  }
  gateway.stderr.resume();
  const end = async () => { gateway.kill('SIGTERM'); await once(gateway, 'exit'); };
  return { address, end };
}

for (const [name, options] of [
  ['broken-desk', { viewport: { width: 1280, height: 900 } }],
  ['broken-phone-dark', { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme: 'dark' }],
]) {
  test(`what is broken is said at the top: ${name}`, async () => {
    const { address, end } = await lost();
    const context = await browser.newContext(options);
    const page = await context.newPage();
    try {
      await page.goto(address);
      const codes = () => page.locator('#problems .what span').allTextContents();
      await page.waitForFunction(() => document.querySelectorAll('#problems li').length >= 2);
      assert.deepEqual(await codes(), ['no-token', 'no-region']);
      assert.match(await page.textContent('#problems'), /there is no valid token.*What to do: .*none of Defender's hosts can be used.*What to do: /s);
      assert.equal(await page.textContent('#mode'), 'degraded');
      assert.ok((await page.getAttribute('#mode', 'class')).includes('bad'), 'and not in green');
      assert.match(await page.title(), / · tenant 5f0e2a1c-3d4b-4c6d-8e9f-0a1b2c3d4e5f · cloud public – defender-gateway$/);
      await page.screenshot({ path: `${shots}/${name}.png` });
    } finally {
      await context.close();
      await end();
    }
  });
}

test('every problem that there may be is named in the banner, with what to do', async () => {
  const metrics = await (await fetch(`${admin}/metrics`)).text();
  const codes = [...metrics.matchAll(/^defender_gateway_problem\{code="([^"]+)"\}/gm)].map((match) => match[1]);
  assert.ok(codes.length >= 17, `${codes}`);
  const state = await (await fetch(`${admin}/status`)).json();
  const { page, trouble, close } = await open();
  // In the form that `it problems::` finds in /status when the thing itself is broken.
  const problems = codes.map((code) => (
    { code, severity: 'critical', since_s: 90, count: 3, message: `what ${code} is about`, advice: `mend ${code}` }));
  await page.route('**/status', (route) => route.fulfill({ json: { ...state, mode: 'degraded', problems } }));
  await page.waitForFunction((count) => document.querySelectorAll('#problems li').length === count, codes.length);
  const shown = await page.locator('#problems li').allTextContents();
  for (const [at, code] of codes.entries()) {
    assert.match(shown[at], new RegExp(`^${code} what ${code} is about.*For .*What to do: mend ${code}\\.$`, 's'));
  }
  assert.ok(await page.isVisible('#banner'), 'the banner is shown');
  assert.ok((await page.getAttribute('#mode', 'class')).includes('bad'), 'the mode is not in green');
  await page.unroute('**/status');
  await page.route('**/status', (route) => route.fulfill({ json: { ...state, mode: 'normal', problems: [] } }));
  await page.waitForFunction(() => document.querySelector('#banner').hidden);
  assert.ok((await page.getAttribute('#mode', 'class')).includes('good'));
  assert.deepEqual(trouble, []);
  await close();
});

// The page of the demo, with what `change` makes of each answer of /status; `shows` waits until it is seen.
async function posed(options = {}) {
  const state = await (await fetch(`${admin}/status`)).json();
  const opened = await open(options);
  const { page } = opened;
  let change = (same) => same;
  let version = 0;
  await page.route('**/status', (route) => route.fulfill({ json: change({ ...state, mode: 'normal', problems: [], version: String(version) }) }));
  const shows = async (how) => {
    change = how;
    version += 1;
    await page.waitForFunction((wanted) => document.querySelector('#summary').textContent.startsWith(`version ${wanted},`), String(version));
  };
  return { ...opened, state, shows };
}

test('a quota of which nothing may be spent does not look free', async () => {
  const { page, trouble, shows, close } = await posed();
  const window = { name: '1m', limit: 100, used: 0, remaining: 100, reset_s: 60 };
  const quota = { windows: [window], paused_until_s: null, in_flight: 0, foreign_calls: 0, shared: true, replicas: 2 };
  await shows((state) => ({ ...state, quota }));
  assert.match(await page.textContent('#windows'), /^100 of 100 calls left this minuteall of it$/);
  assert.match(await page.textContent('#quota-notes'), /^Shared by 2 gateways/);
  // The upstream ordered a pause for what others did.
  await shows((state) => ({ ...state, quota: { ...quota, paused_until_s: 30, windows: [{ ...window, remaining: 0, reset_s: 30 }] } }));
  assert.match(await page.textContent('#windows'), /^0 of 100 calls left this minutemore in 30 s$/);
  await shows((state) => ({ ...state, mode: 'store-lost', quota }));
  assert.match(await page.textContent('#quota-notes'), /^No call leaves: the store does not answer · /);
  assert.ok((await page.getAttribute('#quota-notes', 'class')).includes('warn'));
  assert.deepEqual(trouble, []);
  await close();
});

test('where each operation has a quota of its own, none of them is taken for all', async () => {
  const { page, trouble, shows, close } = await posed();
  const window = { name: '1m', limit: 100, used: 0, remaining: 98, reset_s: 60 };
  const one = { windows: [window], pace: null, paused_until_s: null, in_flight: 0, foreign_calls: 0, shared: true, replicas: 2 };
  const operations = { agents: { ...one, windows: [{ ...window, remaining: 0, reset_s: 30 }], paused_until_s: 30, in_flight: 2, foreign_calls: 12 }, history_by_definition: one };
  await shows((state) => ({ ...state, quota: { ...one, paused_until_s: 30, in_flight: 2, foreign_calls: 12, operations }, queue: { ...state.queue, waiting_with_callers_tokens: 300 } }));
  assert.deepEqual(await page.locator('#windows h3').allTextContents(), ['agents', 'history by definition']);
  assert.match(await page.textContent('#windows'), /^agents0 of 100 calls left this minutemore in 30 sPaused by the upstream for another 30 s · 2 in flight · 12 calls by others.*history by definition98 of 100/);
  assert.equal(await page.textContent('#quota-notes'), 'Shared by 2 gateways');
  assert.match(await page.textContent('#queue'), /With tokens of their own300/);
  await page.screenshot({ path: `${shots}/operations.png`, fullPage: true });
  await shows((state) => state);
  assert.equal(await page.locator('#windows h3').count(), 0);
  assert.deepEqual(trouble, []);
  await close();
});

test('sign-in that fails and merging that rests are said to', async () => {
  const { page, trouble, shows, close } = await posed();
  const failed = { code: 'AADSTS7000215', message: 'wrong', advice: 'set it', retry_in_s: 12 };
  await shows((state) => ({ ...state, token: { ...state.token, refreshing: false, last_error: failed },
    merge: { mode: 'on', evidence: null, rests_for_s: 600, rests_because: 'an answer has no ids' } }));
  assert.match(await page.textContent('#token'), /Renewalagain in 12 s/);
  assert.match(await page.textContent('#saved'), /^MergingonMerging restsfor 10 min: an answer has no idsFrom a cache/);
  await shows((state) => ({ ...state, token: { ...state.token, refreshing: false, last_error: null }, merge: { mode: 'on', evidence: null, rests_for_s: null } }));
  assert.match(await page.textContent('#token'), /Renewalnot due/);
  assert.match(await page.textContent('#saved'), /^MergingonFrom a cache/);
  assert.deepEqual(trouble, []);
  await close();
});

test('each window has a colour of its own', async () => {
  const { page, trouble, shows, close } = await posed({ past: { ...hour(), remaining: hour().remaining.map(([minute, hour]) => [minute, hour, 9 * hour, 30 * hour]) } });
  const windows = [['1m', 100], ['1h', 1500], ['1d', 13500], ['7d', 45000]].map(([name, limit]) => ({ name, limit, used: 0, remaining: limit, reset_s: 60 }));
  await shows((state) => ({ ...state, quota: { ...state.quota, windows } }));
  await page.waitForFunction(() => document.querySelectorAll('#left polyline').length === 4, undefined, { timeout: 30_000 });
  const colours = (what, of) => page.evaluate(([what, of]) => [...document.querySelectorAll(what)].map((node) => getComputedStyle(node)[of]), [what, of]);
  assert.equal(new Set(await colours('#left polyline', 'stroke')).size, 4);
  assert.equal(new Set(await colours('#left-text .key', 'backgroundColor')).size, 4);
  assert.deepEqual(trouble, []);
  await close();
});

test('what is not known of an hour is not drawn as nothing left', async () => {
  const past = hour();
  past.remaining = past.remaining.map((row, step) => (step < 170 ? [] : [80, 900]));
  const { page, trouble, close } = await open({ past });
  assert.match(await page.textContent('#left-text'), /1m: 80 of 100 at the lowest .*1h: 900 of 1,500 at the lowest/);
  assert.deepEqual(trouble, []);
  await close();
});

test('a problem is announced once, and what is equal stays where a reader has it', async () => {
  const { page, trouble, shows, close } = await posed();
  await shows((state) => state);
  await page.evaluate(() => {
    globalThis.heard = [];
    const hear = (changes) => changes.forEach(({ target }) => {
      const live = (target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement).closest('[aria-live]:not([aria-live="off"]), [role="status"], [role="alert"]');
      if (live) globalThis.heard.push(live.textContent);
    });
    new MutationObserver(hear).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  const problem = (code, count) => ({ code, severity: 'warning', since_s: 100 * count, count, message: `${count} of ${code}`, advice: `mend ${code}` });
  const problems = (count, codes) => (state) => ({ ...state, problems: codes.map((code) => problem(code, count)), uptime_s: 100 * count });
  await shows(problems(1, ['no-region', 'paused']));
  await page.evaluate(() => {
    const range = document.createRange();
    range.selectNodeContents(document.querySelector('#problems .what span'));
    getSelection().addRange(range);
  });
  await shows(problems(2, ['no-region', 'paused']));
  await shows(problems(3, ['no-region', 'paused']));
  assert.match(await page.textContent('#problems'), /3 of no-region.*3 of paused/);
  assert.equal(await page.evaluate(() => getSelection().toString()), 'no-region', 'the selection stays');
  await shows(problems(4, ['no-region']));
  await shows(problems(5, []));
  assert.deepEqual(await page.evaluate(() => globalThis.heard),
    ['Problems: no-region, paused', 'Problems: no-region', 'No problems']);
  assert.deepEqual(trouble, []);
  await close();
});

test('a new request is seen without a reload', async () => {
  const { page, trouble, close } = await open();
  // Hits, misses or stale answers, whichever it is by now.
  const first = await page.textContent('#cache');
  const ask = () => fetch(data + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"ScanDefinitionIds":["60c4aa2d-7f35-4b8f-9e0a-000000000014"]}' });
  await Promise.all([ask(), ask(), ask()]);
  await page.waitForFunction((before) => document.querySelector('#cache').textContent !== before, first);
  assert.deepEqual(trouble, []);
  await close();
});

for (const [name, options] of [
  ['desk', { viewport: { width: 1280, height: 900 } }],
  ['desk-dark', { viewport: { width: 1280, height: 900 }, colorScheme: 'dark' }],
  ['phone', { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }],
  ['phone-dark', { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme: 'dark' }],
]) {
  test(`it can be read and used: ${name}`, async () => {
    const { page, trouble, close } = await open({ ...options, past: hour() });
    await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(wide, 0, 'nothing sticks out to the side');
    const cut = await page.evaluate(() => [...document.querySelectorAll('.scroll')].filter((box) => (box.scrollWidth > box.clientWidth + 1) === box.nextElementSibling.hidden).length);
    assert.equal(cut, 0, 'a table that goes on to the right says so, and no other one does');
    // The page's policy lets no script in; the test's own comes by the debugger.
    const found = await page.evaluate(`${await readFile(axe, 'utf8')}; axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa'] })`);
    assert.deepEqual(found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(' ')}`), []);
    assert.deepEqual(trouble, []);
    await close();
  });
}

test('the keyboard reaches every link and every table, visibly', async () => {
  const { page, close } = await open();
  const reached = new Set();
  for (let press = 0; press < 12; press += 1) {
    await page.keyboard.press('Tab');
    const focus = await page.evaluate(() => {
      const node = document.activeElement;
      return { name: node.getAttribute('href') ?? node.getAttribute('aria-labelledby'), outline: getComputedStyle(node).outlineStyle };
    });
    if (focus.name) {
      assert.notEqual(focus.outline, 'none', `${focus.name} shows that it has the focus`);
      reached.add(focus.name);
    }
  }
  for (const name of ['queue-title', 'regions-title', 'trouble-title', '/status', '/history', '/metrics', '/openapi.json', '/readyz?verbose']) {
    assert.ok(reached.has(name), `${name} is reached`);
  }
  await close();
});

test('a gateway that is gone is said to be gone', async () => {
  const { page, close } = await open();
  await page.route('**/status', (route) => route.abort());
  await page.waitForFunction(() => document.querySelector('#summary').textContent.includes('these figures are old'));
  assert.equal(await page.textContent('#mode'), 'no answer');
  // It comes back by itself.
  await page.unroute('**/status');
  await page.waitForFunction(() => !['no answer', '…'].includes(document.querySelector('#mode').textContent));
  await close();
});

test('only a gateway that is gone is said not to answer', async () => {
  const { page, close } = await open();
  const said = (words) => page.waitForFunction((wanted) => document.querySelector('#summary').textContent.includes(wanted), words);
  await page.route('**/status', (route) => route.fulfill({ status: 421, body: 'another host' }));
  await said("The gateway's answer cannot be shown (status 421); these figures are old.");
  assert.equal(await page.textContent('#mode'), 'unknown');
  await page.unroute('**/status');
  await page.route('**/status', (route) => route.fulfill({ json: { mode: 'normal', version: '9', regions: 7 } }));
  await said("The gateway's answer cannot be shown (");
  await page.unroute('**/status');
  // Without the hour the rest is worth showing.
  await page.route('**/history', (route) => route.fulfill({ status: 500, body: '' }));
  await page.waitForFunction(() => document.querySelector('#hour-notes').textContent.includes('status 500'));
  assert.ok(await page.evaluate(() => document.querySelector('.charts').classList.contains('old')), 'what was drawn before is no longer now');
  await said('up ');
  assert.equal(await page.evaluate(() => document.body.classList.contains('stale')), false);
  await close();
});
