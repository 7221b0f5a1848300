'use strict'
// rabbitmq-client.

const {randomUUID} = require('node:crypto')
const {Connection} = require('rabbitmq-client')
const {run, fibonacci, toCamel, fromCamel} = require('./commands.js')
const {Typed, mapped, places, decimal, seconds, datetime} = require('./notation.js')

// It writes {scale, value} as a decimal and a Date as a timestamp, and gives the former back, but of the latter a
// number.
function toTable(headers) {
  return mapped(headers, (value) => {
    if (!(value instanceof Typed)) return value
    if (value.kind === 'datetime') return new Date(seconds(value) * 1000)
    const [scale, digits] = places(value.content)
    return {scale, value: digits}
  })
}

function fromTable(headers) {
  return mapped(headers, (value) => {
    const isDecimal = value !== null && typeof value === 'object' && Object.keys(value).join() === 'scale,value'
    return isDecimal ? decimal(value.scale, value.value) : value
  })
}

function received(message) {
  const properties = fromCamel(message)
  if ('headers' in properties) properties.headers = fromTable(properties.headers)
  if ('timestamp' in properties) properties.timestamp = datetime(properties.timestamp)
  const {body} = message
  return {body: Buffer.isBuffer(body) ? body : Buffer.from(String(body)), properties}
}

async function open(url) {
  const connection = new Connection(url)
  connection.on('error', (error) => console.error(error.message))
  await connection.onConnect(10_000, true)
  const publisher = connection.createPublisher({confirm: true})

  return {
    async close() {
      await publisher.close()
      await connection.close()
    },

    async publish({queue, body, properties}) {
      const envelope = {...toCamel(properties), routingKey: queue}
      if ('headers' in envelope) envelope.headers = toTable(envelope.headers)
      if ('timestamp' in envelope) envelope.timestamp = seconds(envelope.timestamp)
      await publisher.send(envelope, body)
    },

    async get({queue}) {
      const message = await connection.basicGet({queue, noAck: true})
      return message ? received(message) : null
    },

    async call({queue, body}) {
      const channel = await connection.acquire()
      try {
        const {queue: replies} = await channel.queueDeclare({exclusive: true})
        const correlationId = randomUUID()
        const reply = new Promise((resolve) => {
          const onReply = (message) => message.correlationId === correlationId && resolve(received(message))
          channel.basicConsume({queue: replies, noAck: true}, onReply)
            .then(() => channel.basicPublish({routingKey: queue, replyTo: replies, correlationId}, body))
        })
        return await reply
      } finally {
        await channel.close()
      }
    },

    async serve({queue, count}) {
      let consumer
      await new Promise((resolve, reject) => {
        const onRequest = async (message, reply) => {
          await reply(fibonacci(message.body))
          if (!--count) setImmediate(resolve) // after the acknowledgement
        }
        const options = {queue, queueOptions: {passive: true}, qos: {prefetchCount: 1}}
        consumer = connection.createConsumer(options, onRequest)
        consumer.on('error', reject)
      })
      await consumer.close()
    },

    // --- bodies by their content type -------------------------------------------------------------------------------

    // Published the way the library does unasked: as JSON.
    async publish_object({queue, value}) {
      await publisher.send({routingKey: queue}, value)
    },

    async get_object({queue}) {
      return (await connection.basicGet({queue, noAck: true})).body
    },

    // Its own RPC client: over direct reply-to.
    async call_direct({queue, body}) {
      const client = connection.createRPCClient({confirm: true})
      try {
        return received(await client.send(queue, body))
      } finally {
        await client.close()
      }
    },
  }
}

run(open)
