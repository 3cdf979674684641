// A bare send loop: npm web-push's sendNotification, so many at a time. No queue, no retry, no log.
// Reads the same JSON as loop_pywebpush.py on stdin; writes {seconds, cpu_s}.
const https = require("node:https");
const webpush = require("web-push");

const asked = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
webpush.setVapidDetails("mailto:ops@example.org", asked.public_key, asked.private_key);
const agent = new https.Agent({ keepAlive: true, maxSockets: asked.at_once });
let next = 0;

async function sender() {
  while (next < asked.count) {
    const subscription = asked.subscriptions[next++ % asked.subscriptions.length];
    const { statusCode } = await webpush.sendNotification(subscription, asked.payload, { TTL: 3600, agent });
    if (statusCode !== 201) throw new Error(`answered ${statusCode}`);
  }
}

const began = process.hrtime.bigint();
const used = process.cpuUsage();
Promise.all(Array.from({ length: asked.at_once }, sender)).then(() => {
  const { user, system } = process.cpuUsage(used);
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  console.log(JSON.stringify({ seconds, cpu_s: (user + system) / 1e6 }));
  process.exit(0);
});
