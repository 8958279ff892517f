// Counts, and writes how far it has come and the sum of its data to a file with its number, by the pool of threads.
const fs = require('fs');
const folder = process.argv[2];
const data = Buffer.alloc(8 << 20);
for (let at = 0; at < data.length; at++) data[at] = (at * 31) & 255;
const objects = Array.from({ length: 10000 }, (_, at) => ({ at, text: 'text ' + at }));

function sum() {
	let sum = 0;
	for (let at = 0; at < data.length; at += 7) sum = (sum * 33 + data[at]) >>> 0;
	for (const object of objects) sum = (sum + object.at + object.text.length) >>> 0;
	return sum;
}

let count = 0;
let busy = false;
setInterval(async () => {
	if (busy) return;
	busy = true;
	count++;
	const name = `${folder}/${fs.readlinkSync('/proc/self')}`;
	// A child that begins here writes the other's file once, and one of them finds it renamed already.
	const written = fs.promises.writeFile(name + '.new', `${count} ${sum()}`);
	await written.then(() => fs.promises.rename(name + '.new', name)).catch(() => {});
	busy = false;
}, 2);
