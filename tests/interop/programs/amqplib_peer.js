'use strict'
// amqplib, by its promises.

const {randomUUID} = require('node:crypto')
const amqplib = require('amqplib')
const {run, fibonacci, toCamel, fromCamel} = require('./commands.js')
const {Typed, mapped, places, decimal, seconds, datetime} = require('./notation.js')

// What JavaScript has no values for is written {'!': type, value} in tables.
function toTable(headers) {
  return mapped(headers, (value) => {
    if (typeof value === 'bigint') return {'!': 'int64', value}
    if (!(value instanceof Typed)) return value
    if (value.kind === 'datetime') return {'!': 'timestamp', value: seconds(value)}
    const [scale, digits] = places(value.content)
    return {'!': 'decimal', value: {places: scale, digits}}
  })
}

function fromTable(headers) {
  return mapped(headers, (value) => {
    if (value === null || typeof value !== 'object' || !('!' in value)) return value
    return value['!'] === 'timestamp' ? datetime(value.value) : decimal(value.value.places, value.value.digits)
  })
}

function received(message) {
  const properties = fromCamel(message.properties)
  if ('headers' in properties) properties.headers = fromTable(properties.headers)
  if ('timestamp' in properties) properties.timestamp = datetime(properties.timestamp)
  return {body: message.content, properties}
}

async function open(url) {
  const connection = await amqplib.connect(url)
  connection.on('error', (error) => console.error(error.message))
  const channel = await connection.createConfirmChannel()
  channel.on('error', (error) => console.error(error.message))

  async function publish(queue, body, options) {
    channel.sendToQueue(queue, body, options)
    await channel.waitForConfirms()
  }

  return {
    close: () => connection.close(),

    async publish({queue, body, properties}) {
      const options = toCamel(properties)
      if ('headers' in options) options.headers = toTable(options.headers)
      if ('timestamp' in options) options.timestamp = seconds(options.timestamp)
      await publish(queue, body, options)
    },

    // A value in a type of the table that is named: int8, uint16, float...
    async publish_typed({queue, type, value}) {
      await publish(queue, Buffer.alloc(0), {headers: {value: {'!': type, value}}})
    },

    async get({queue}) {
      const message = await channel.get(queue, {noAck: true})
      return message ? received(message) : null
    },

    async call({queue, body}) {
      const {queue: replies} = await channel.assertQueue('', {exclusive: true})
      const correlationId = randomUUID()
      let consumer
      const reply = new Promise((resolve) => {
        const onReply = (message) => message.properties.correlationId === correlationId && resolve(received(message))
        consumer = channel.consume(replies, onReply, {noAck: true})
      })
      const {consumerTag} = await consumer
      await publish(queue, body, {correlationId, replyTo: replies})
      const result = await reply
      await channel.cancel(consumerTag)
      return result
    },

    async serve({queue, count}) {
      const own = await connection.createChannel()
      await own.prefetch(1)
      await new Promise((resolve, reject) => {
        const onRequest = (message) => {
          try {
            const {replyTo, correlationId} = message.properties
            own.sendToQueue(replyTo, fibonacci(message.content), {correlationId})
            own.ack(message)
            if (!--count) resolve()
          } catch (error) {
            reject(error)
          }
        }
        own.consume(queue, onRequest).catch(reject)
      })
      await own.close()
    },
  }
}

run(open)
