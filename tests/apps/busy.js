// SPDX-License-Identifier: Apache-2.0
// The node program that test_node.py dumps: an http server, timers, two worker threads that answer, files read by the thread pool.
const { Worker, isMainThread, parentPort } = require('worker_threads');

if (!isMainThread) {
	parentPort.on('message', (n) => parentPort.postMessage(n));
} else {
	const crypto = require('crypto');
	const fs = require('fs');
	const http = require('http');
	const counts = { ticks: 0, answers: [0, 0], reads: 0 };
	const wrong = [];
	const data = crypto.randomBytes(4 << 20);
	const own = fs.readFileSync(__filename, 'utf8');

	setInterval(() => counts.ticks++, 3);
	for (let i = 0; i < 2; i++) {
		const worker = new Worker(__filename);
		worker.on('message', (n) => {
			if (n !== counts.answers[i])
				wrong.push(`worker ${i}: ${n} instead of ${counts.answers[i]}`);
			counts.answers[i]++;
			setTimeout(() => worker.postMessage(counts.answers[i]), 1);
		});
		worker.on('error', (e) => wrong.push(String(e)));
		worker.postMessage(0);
	}
	(function read() {
		fs.readFile(__filename, 'utf8', (e, text) => {
			if (e || text !== own)
				wrong.push(`read: ${e}`);
			counts.reads++;
			setTimeout(read, 2);
		});
	})();
	http.createServer((request, answer) => {
		answer.setHeader('Connection', 'close');
		answer.end(JSON.stringify({ ...counts, wrong, data: crypto.createHash('sha256').update(data).digest('hex') }));
	}).listen(Number(process.argv[2]), '127.0.0.1');
}
