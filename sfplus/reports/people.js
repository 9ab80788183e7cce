// Names that are typed and faces that are moved are kept here until they are saved: as files, or by the server at data.save.
'use strict';
(() => {
  const element = (id) => document.getElementById(id)
  const all = (selector) => [...document.querySelectorAll(selector)]
  const clean = (text) => text.normalize('NFC').replace(/\s+/g, ' ').trim()
  const fold = (text) => text.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase() // finds Zoë by "zoe"
  const count = (number, one, several = one + 's') => `${number.toLocaleString('en')} ${number === 1 ? one : several}`

  const data = JSON.parse(element('data').textContent)
  const { ids, shown } = data // people and faces are numbers: rows of these two
  const numbers = new Map(ids.map((id, number) => [id, number]))
  const typed = new Map() // new name by person
  const moves = new Map() // by face: the number of a person, or a new name, or '' for somebody else
  const selected = new Set() // faces
  const unsaved = new Set(), written = new Set() // 'people', 'corrections'

  const nameOf = (person) => typed.get(person) ?? data.names[person] ?? ''
  const labelOf = (person) => nameOf(person) || ids[person]
  const textOf = (target) => (target === '' ? 'somebody else' : typeof target === 'number' ? labelOf(target) : target)
  const named = () => new Set([...Object.keys(data.names).map(Number), ...typed.keys()].filter(nameOf))
  let namesakes = new Map() // people by name
  function countNames() {
    namesakes = new Map()
    for (const person of named()) {
      const name = clean(nameOf(person))
      namesakes.has(name) ? namesakes.get(name).push(person) : namesakes.set(name, [person])
    }
  }
  const resolve = (text) => numbers.get(text) ?? namesakes.get(text)?.[0] ?? text // a name or an id that somebody typed
  const isId = (text) => numbers.has(text) || /^person-\d+$/.test(text)
  const say = (text) => { element('message').textContent = text }

  // Names

  const fields = all('input.name').map((field) => ({
    field, person: Number(field.closest('[data-name]').dataset.name), note: field.parentElement.querySelector('.joined'),
  }))
  const onPage = new Set(fields.map(({ person }) => person))
  const joined = new Map() // by saved name: the people not on the page, who are the same person as the one on the page
  for (const [person, name] of Object.entries(data.names)) {
    if (!onPage.has(Number(person))) joined.set(name, [...(joined.get(name) ?? []), Number(person)])
  }
  const same = (person) => [person, ...(joined.get(data.names[person]) ?? [])]

  function typeName({ field, person }) {
    const text = clean(field.value)
    const twin = namesakes.get(text)?.find((row) => !same(person).includes(row))
    const name = twin === undefined ? text : nameOf(twin) // letter by letter, also if it is written with other accents
    const isNew = text !== clean(field.defaultValue) && !isId(text)
    for (const row of same(person)) isNew ? typed.set(row, name) : typed.delete(row)
    unsaved.add('people')
    countNames()
    for (const { field, person, note } of fields) {
      set(note, nameNote(person, clean(field.value)))
      field.classList.toggle('changed', typed.has(person))
    }
    for (const node of all('[data-label]')) set(node, labelOf(Number(node.dataset.label)))
    update()
  }

  function nameNote(person, text) {
    if (isId(text)) return `${text} is not a name; to join two people, give both the same name`
    if (typed.get(person) === '' && data.names[person]) return `no longer ${data.names[person]}`
    const others = (namesakes.get(clean(nameOf(person))) ?? []).filter((row) => !same(person).includes(row) && data.photos[row])
    if (!others.length || ![person, ...others].some((row) => typed.has(row))) return ''
    const list = others.slice(0, 3).map((other) => `${ids[other]} (${count(data.photos[other], 'photo')})`)
    return `will be joined with ${list.join(', ')}${others.length > 3 ? ` and ${others.length - 3} more` : ''}`
  }

  // Faces

  const touched = new Set() // faces that are drawn anew
  const tiles = new Map()
  for (const tile of all('[data-face]')) {
    const face = Number(tile.dataset.face)
    tiles.set(face, [...(tiles.get(face) ?? []), tile])
    tile.querySelector('.tick input').addEventListener('change', () => toggle(face))
    tile.querySelector('a')?.addEventListener('click', (event) => {
      if (!selected.size || event.ctrlKey || event.metaKey || event.shiftKey) return
      event.preventDefault() // once a face is selected, a click on another one selects it too
      toggle(face)
    })
  }

  function toggle(face) {
    if (!selected.delete(face)) selected.add(face)
    touched.add(face)
    say('')
    update()
  }

  function selectNone() {
    for (const face of selected) touched.add(face)
    selected.clear()
    say('')
    update()
  }

  function move(target) {
    for (const face of selected) target === undefined ? moves.delete(face) : moves.set(face, target)
    unsaved.add('corrections')
    element('target').value = ''
    const done = target === undefined ? '' : `${count(selected.size, 'face')}: ${textOf(target)}`
    selectNone()
    say(done)
  }

  function moveNote(face) {
    const target = moves.get(face)
    if (target === undefined) return ''
    if (target === '') return 'somebody else'
    return target === shown[face][2] ? `stays with ${textOf(target)}` : `moves to ${textOf(target)}`
  }

  // What is seen

  function set(node, text) {
    if (node.textContent !== text) node.textContent = text
    node.hidden = !text
  }

  function update() {
    for (const face of [...touched, ...moves.keys()]) {
      for (const tile of tiles.get(face)) {
        tile.classList.toggle('selected', selected.has(face))
        tile.classList.toggle('moving', (moves.get(face) ?? shown[face][2]) !== shown[face][2])
        tile.querySelector('.tick input').checked = selected.has(face)
        set(tile.querySelector('.moved'), moveNote(face))
      }
    }
    touched.clear()
    if (!typed.size && !written.has('people')) unsaved.delete('people')
    if (!moves.size && !written.has('corrections')) unsaved.delete('corrections')
    element('selection').hidden = !selected.size
    element('selected').textContent = `${count(selected.size, 'face')} selected`
    element('undo').hidden = ![...selected].some((face) => moves.has(face))
    const names = [...typed.keys()].filter((person) => onPage.has(person)).length
    const parts = [names && count(names, 'name'), moves.size && count(moves.size, 'face')].filter(Boolean)
    element('changes').hidden = !parts.length && !unsaved.size
    element('changed').textContent = `${parts.join(' and ') || 'nothing'} changed${unsaved.size ? '' : ', saved'}`
    if (!data.save) {
      element('save-people').hidden = !typed.size && !unsaved.has('people')
      element('save-corrections').hidden = !moves.size && !unsaved.has('corrections')
    }
    element('bar').classList.toggle('open', Boolean(selected.size || parts.length || unsaved.size))
    targetNote()
  }

  function targetNote() {
    const text = clean(element('target').value)
    const target = resolve(text)
    const known = typeof target === 'number' ? `${ids[target]}, ${count(data.photos[target], 'photo')}` : 'a new person'
    set(element('target-note'), text && (known === 'a new person' && isId(text) ? 'not on this page' : known))
  }

  function search() {
    const text = fold(clean(element('search').value))
    const fits = (person) => fold(`${nameOf(person)}\n${ids[person]}`).includes(text)
    for (const row of all('[data-people]')) row.hidden = Boolean(text) && !row.dataset.people.split(' ').some((n) => n && fits(Number(n)))
    for (const section of all('main > section')) section.hidden = !section.querySelector('[data-people]:not([hidden])') && Boolean(text)
    if (!text) return set(element('found'), '')
    const others = [...named()].filter((person) => !onPage.has(person) && data.photos[person] && fits(person))
    const list = others.slice(0, 5).map((person) => `${nameOf(person)} (${ids[person]})`)
    const rest = others.length > 5 ? ` and ${others.length - 5} more` : ''
    const found = count([...onPage].filter(fits).length, 'person', 'people')
    set(element('found'), others.length ? `${found} here, and not on this page: ${list.join(', ')}${rest}` : found)
  }

  function suggest(list, field, withIds) { // browsers are slow with lists of thousands
    const text = fold(field.value)
    const known = new Set([...named()].map(nameOf))
    if (withIds) for (const { person } of fields) known.add(labelOf(person))
    const options = [...known].filter((name) => fold(name).includes(text)).slice(0, 100).sort((a, b) => a.localeCompare(b))
    element(list).replaceChildren(...options.map((name) => Object.assign(document.createElement('option'), { value: name })))
  }

  // Saving

  const targetName = (target) => (typeof target === 'number' ? ids[target] : target)
  const moved = () => [...moves].map(([face, target]) => [shown[face][0], shown[face][1], targetName(target)])
  const cell = (value) => (/[",;\t\r\n]|^\s|\s$/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value))
  const csv = (rows) => rows.map((row) => row.map(cell).join(',') + '\n').join('')

  function peopleCsv() {
    const rows = ids.map((id, person) => [id, nameOf(person), data.photos[person], data.faces[person]])
    return csv([['person', 'name', 'photos', 'faces'], ...rows])
  }

  function correctionsCsv() {
    const rows = new Map([...data.corrections, ...moved()].map((row) => [`${row[1]} ${row[0]}`, row])) // the last one counts
    return csv([['photo', 'face', 'person'], ...rows.values()])
  }

  function download(kind, text) {
    const url = URL.createObjectURL(new Blob([text], { type: 'text/csv' }))
    Object.assign(document.createElement('a'), { href: url, download: `${kind}.csv` }).click()
    setTimeout(() => URL.revokeObjectURL(url), 60_000)
    unsaved.delete(kind)
    written.add(kind)
    update()
  }

  async function post() {
    const names = Object.fromEntries([...typed].map(([person, name]) => [ids[person], name]))
    element('save').disabled = true
    say('Saving …')
    try {
      const headers = { 'Content-Type': 'application/json', 'X-Sfplus-Token': data.token }
      const answer = await fetch(data.save, { method: 'POST', headers, body: JSON.stringify({ names, moves: moved() }) })
      if (!answer.ok) throw new Error(clean(await answer.text()).slice(0, 300) || `not saved: error ${answer.status}`)
      unsaved.clear()
      location.reload()
    } catch (error) {
      say(error instanceof TypeError ? 'Not saved: the server does not answer. Is “sfplus app” still running?' : error.message)
      element('save').disabled = false
    }
  }

  for (const entry of fields) {
    entry.field.addEventListener('input', () => { suggest('names', entry.field, false); typeName(entry) })
    entry.field.addEventListener('focus', () => suggest('names', entry.field, false))
  }
  element('target').addEventListener('input', () => { suggest('targets', element('target'), true); targetNote() })
  element('target').addEventListener('focus', () => suggest('targets', element('target'), true))
  element('search').addEventListener('input', search)
  element('selection').addEventListener('submit', (event) => {
    event.preventDefault()
    const text = clean(element('target').value)
    if (!text) say('Type a name, or choose “Somebody else”.')
    else if (!data.save && isId(text) && !numbers.has(text)) say(`There is no ${text}.`)
    else move(resolve(text))
  })
  element('nobody').addEventListener('click', () => move(''))
  element('undo').addEventListener('click', () => move(undefined))
  element('clear').addEventListener('click', selectNone)
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape' && selected.size) selectNone() })
  if (data.save) element('save').addEventListener('click', post)
  else {
    element('save-people').addEventListener('click', () => download('people', peopleCsv()))
    element('save-corrections').addEventListener('click', () => download('corrections', correctionsCsv()))
  }
  addEventListener('beforeunload', (event) => { if (unsaved.size) { event.preventDefault(); event.returnValue = true } })
  countNames()
  document.documentElement.classList.add('ready')
})()
