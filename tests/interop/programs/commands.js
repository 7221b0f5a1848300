'use strict'
// The loop that has a peer do as standard input says, a line of JSON for each command: what commands.py is in Python,
// where the commands are described. After an error the peer is opened anew.

const readline = require('node:readline')
const {noted, valueOf} = require('./notation.js')

// AMQP's names of the properties; both libraries have them in camel case.
const NAMES = [
  'content_type', 'content_encoding', 'headers', 'delivery_mode', 'priority', 'correlation_id', 'reply_to',
  'expiration', 'message_id', 'timestamp', 'type', 'user_id', 'app_id', 'cluster_id',
]

const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())

// The library's names for AMQP's, and back: what is absent stays so.
function toCamel(properties) {
  return Object.fromEntries(Object.entries(properties).map(([name, value]) => [camel(name), value]))
}

function fromCamel(fields) {
  const known = NAMES.map((name) => [name, fields[camel(name)]])
  return Object.fromEntries(known.filter(([, value]) => value !== undefined))
}

function fibonacci(body) {
  let [low, high] = [0n, 1n]
  for (let left = Number(body.toString()); left > 0; left--) [low, high] = [high, low + high]
  return Buffer.from(String(low))
}

async function run(open) {
  let peer
  for await (const line of readline.createInterface({input: process.stdin})) {
    const [command, given] = JSON.parse(line)
    let answer
    try {
      peer ??= await open(process.argv[2])
      answer = {result: noted(await peer[command](valueOf(given)))}
    } catch (error) {
      answer = {error: error.name, text: error.message}
      try {
        await peer?.close()
      } catch (second) {
        console.error('while closing:', second)
      }
      peer = undefined
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  await peer?.close()
}

module.exports = {run, fibonacci, toCamel, fromCamel}
