// A bare send loop: npm web-push's sendNotification, as concurrent calls, without queue, retry and log.
// Reads the same JSON as loop_pywebpush.py on stdin; writes {seconds, cpu_s}.
const https = require("node:https");
const webpush = require("web-push");

const options = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
webpush.setVapidDetails("mailto:ops@example.org", options.public_key, options.private_key);
const agent = new https.Agent({ keepAlive: true, maxSockets: options.concurrency });
let next = 0;

async function sender() {
  while (next < options.count) {
    const subscription = options.subscriptions[next++ % options.subscriptions.length];
    const { statusCode } = await webpush.sendNotification(subscription, options.payload, { TTL: 3600, agent });
    if (statusCode !== 201) throw new Error(`status ${statusCode}`);
  }
}

const start = process.hrtime.bigint();
const cpuBefore = process.cpuUsage();
Promise.all(Array.from({ length: options.concurrency }, sender)).then(() => {
  const { user, system } = process.cpuUsage(cpuBefore);
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  console.log(JSON.stringify({ seconds, cpu_s: (user + system) / 1e6 }));
  process.exit(0);
});
