'use strict'
// The pages keep the faces of a photo until they are closed; the server keeps nothing and gets the features back.

const setting = (name) => document.querySelector(`meta[name=${name}]`).content

async function post(address, body, type) {
  let answer
  try {
    answer = await fetch(address, {
      method: 'POST', body, headers: {'X-Sfplus-Token': setting('token'), 'Content-Type': type}
    })
  } catch {
    throw new Error('no answer; is sfplus app still running?')
  }
  if (!answer.ok) throw new Error(await answer.text())
  return answer.json()
}

const postJson = (address, data) => post(address, JSON.stringify(data), 'application/json')

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties)
  node.append(...children)
  return node
}

/** A section where a photo and one of its faces are chosen; `changed` runs after each choice. */
function photoPanel(section, changed) {
  const find = (selector) => section.querySelector(selector)
  const input = find('input[type=file]'), drop = find('.drop'), state = find('.message'), boxes = find('.boxes')
  const panel = {feature: null, choose: load}
  let request = 0

  function say(text, problem = false) {
    state.textContent = text
    state.classList.toggle('problem', problem)
  }

  async function load(file) {
    const number = ++request
    panel.feature = null
    find('.view').hidden = true
    changed()
    if (file.size > setting('max-bytes')) {
      return say(`${file.name}: has more than ${setting('max-bytes') >> 20} MB; make it smaller`, true)
    }
    say('Looking for faces …')
    try {
      const photo = await post(`faces?name=${encodeURIComponent(file.name)}`, file, 'application/octet-stream')
      if (number === request) show(photo, file.name)
    } catch (error) {
      if (number === request) say(error.message, true)
    }
  }

  function show(photo, name) {
    const count = photo.faces.length
    say(count ? '' : `${name}: no face found; choose a photo with a larger, clearer face`, !count)
    const image = find('.frame img')
    Object.assign(image, {src: photo.image, alt: name, width: photo.width, height: photo.height})
    find('.frame').style.maxWidth = `${75 * photo.width / photo.height}vh`
    const group = `face-${[...document.querySelectorAll('.panel')].indexOf(section)}`
    boxes.replaceChildren(...photo.faces.map((face, index) => {
      const radio = element('input', {type: 'radio', name: group, id: `${group}-${index}`, ariaLabel: `Face ${index + 1}`})
      radio.addEventListener('change', () => use(index))
      const box = element('label', {className: 'box', title: `Face ${index + 1}`}, radio, element('span', {textContent: index + 1}))
      const [left, top, width, height] = face.box.map((part) => `${100 * part}%`)
      Object.assign(box.style, {left, top, width, height})
      box.classList.toggle('top', face.box[1] < 0.08)
      return box
    }))
    find('.crops').replaceChildren(...photo.faces.map((face, index) => element('li', {},
      element('label', {htmlFor: `${group}-${index}`, title: `Face ${index + 1}`},
        element('img', {src: face.crop, alt: ''}), element('span', {textContent: index + 1})))))
    find('.view').hidden = false

    function use(index) {
      boxes.querySelectorAll('input')[index].checked = true
      section.querySelectorAll('.crops label').forEach((label, other) => label.classList.toggle('used', other === index))
      find('.count').textContent = count === 1 ? '1 face.'
        : `${count} faces; face ${index + 1} is used. Choose another one by a click, an arrow key or its number.`
      panel.feature = photo.faces[index].feature
      changed()
    }
    find('.count').textContent = ''
    if (count) use(photo.chosen)
  }

  input.addEventListener('change', () => input.files.length && load(input.files[0]))
  section.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over') })
  section.addEventListener('dragleave', () => drop.classList.remove('over'))
  section.addEventListener('drop', (event) => {
    event.preventDefault()
    drop.classList.remove('over')
    if (event.dataTransfer.files.length) load(event.dataTransfer.files[0])
  })
  section.addEventListener('keydown', (event) => {
    const radio = boxes.querySelectorAll('input')[event.key - 1]
    if (/^[1-9]$/.test(event.key) && radio) { radio.focus(); radio.click() }
  })
  return panel
}

/** The last answer to several requests, of which earlier ones may arrive later. */
function latest(run) {
  let number = 0
  return async (...values) => {
    const own = ++number
    const result = await run(...values).catch((error) => ({error: error.message}))
    return own === number ? result : null
  }
}

function comparePage() {
  const verdict = document.getElementById('verdict'), decision = document.getElementById('decision')
  const ask = latest((data) => postJson('compare', data))
  async function compare() {
    const [first, second] = panels.map((panel) => panel.feature)
    verdict.hidden = !(first && second)
    if (verdict.hidden) return
    const far = Number(document.querySelector('[name=far]:checked')?.value) || null
    const answer = await ask({first, second, far})
    if (!answer) return
    if (answer.error) return decision.replaceChildren(element('p', {className: 'message problem', textContent: answer.error}))
    decision.innerHTML = answer.text // written by the server, with all text escaped
    document.getElementById('plot').innerHTML = answer.plot
  }
  const panels = [...document.querySelectorAll('.panel')].map((section) => photoPanel(section, compare))
  document.querySelectorAll('[name=far]').forEach((radio) => radio.addEventListener('change', compare))
  return panels
}

function searchPage() {
  const found = document.getElementById('found'), matches = document.getElementById('matches')
  const ask = latest((feature) => postJson('search', {feature}))
  async function search() {
    const feature = panels[0].feature
    found.hidden = !feature
    matches.replaceChildren()
    if (!feature) return
    const answer = await ask(feature)
    if (answer?.error) matches.append(element('p', {className: 'message problem', textContent: answer.error}))
    else if (answer) matches.innerHTML = answer.text // written by the server, with all text escaped
  }
  const panels = [photoPanel(document.querySelector('.panel'), search)]
  return panels
}

const panels = document.getElementById('compare') ? comparePage() : searchPage()
// A pasted photo goes to the first panel without one.
document.addEventListener('paste', (event) => {
  const file = event.clipboardData.files[0]
  if (file) (panels.find((panel) => !panel.feature) ?? panels.at(-1)).choose(file)
})
