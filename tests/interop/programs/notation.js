'use strict'
// Values as JSON, each with its type: what ../notation.py is in Python. A number that JavaScript holds without a
// fraction is an int; a bigint stands for the integers that a number can't hold. What JavaScript has no values for,
// decimals and times in tables, each library has its own notation for: they come in as {decimal: text} and
// {datetime: Date}, and go out by `Typed`.

class Typed {
  constructor(kind, content) {
    this.kind = kind
    this.content = content
  }
}

function noted(value) {
  if (value === null || value === undefined) return null
  switch (typeof value) {
    case 'boolean':
    case 'string':
      return value
    case 'bigint':
      return {int: String(value)}
    case 'number':
      if (Object.is(value, -0)) return {float: '-0.0'}
      return Number.isInteger(value) && Math.abs(value) < 1e21 ? {int: String(BigInt(value))} : {float: String(value)}
  }
  if (value instanceof Typed) return {[value.kind]: value.content}
  if (Buffer.isBuffer(value)) return {bytes: value.toString('hex')}
  if (Array.isArray(value)) return value.map(noted)
  const table = {}
  for (const [key, each] of Object.entries(value)) table[key] = noted(each)
  return {table}
}

function valueOf(notation) {
  if (Array.isArray(notation)) return notation.map(valueOf)
  if (notation === null || typeof notation !== 'object') return notation
  const [[kind, content]] = Object.entries(notation)
  switch (kind) {
    case 'int':
      return Number.isSafeInteger(Number(content)) ? Number(content) : BigInt(content)
    case 'float':
      return Number(content)
    case 'bytes':
      return Buffer.from(content, 'hex')
    case 'table': {
      const table = {}
      for (const [key, each] of Object.entries(content)) table[key] = valueOf(each)
      return table
    }
    default:
      return new Typed(kind, content)
  }
}

// Every value inside tables and arrays, changed by `change`.
function mapped(value, change) {
  const changed = change(value)
  if (changed !== value) return changed
  if (Array.isArray(value)) return value.map((each) => mapped(each, change))
  if (value === null || typeof value !== 'object' || Buffer.isBuffer(value) || value instanceof Typed) return value
  const table = {}
  for (const [key, each] of Object.entries(value)) table[key] = mapped(each, change)
  return table
}

// "12.50" as [2, 1250]: the decimal places and the digits.
function places(text) {
  const [whole, fraction = ''] = text.split('.')
  return [fraction.length, Number(whole + fraction)]
}

function decimal(places, digits) {
  const text = String(Math.abs(digits)).padStart(places + 1, '0')
  const point = text.length - places
  return new Typed('decimal', (digits < 0 ? '-' : '') + text.slice(0, point) + (places ? '.' + text.slice(point) : ''))
}

function seconds(datetime) {
  return Math.floor(Date.parse(datetime.content) / 1000)
}

// As Python writes it; a number where a Date can't be that late.
function datetime(seconds) {
  if (seconds > 8.64e12) return seconds
  return new Typed('datetime', new Date(seconds * 1000).toISOString().replace(/\.000Z$/, '+00:00'))
}

module.exports = {Typed, noted, valueOf, mapped, places, decimal, seconds, datetime}
