"""Texts that would run something, reach for something or break the layout if a page took them for more than text.

Whatever runs sets `window.ran`, opens a dialog, asks for an address or leaves a message in the console; `watched` sees
all of it.
"""

import shutil
from contextlib import contextmanager

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
AT = "http://127.0.0.1:9"  # nothing answers there

PAYLOADS = {
    "script": "<script>window.ran = 1</script>",
    "script from elsewhere": f'<script src="{AT}/x.js"></script>',
    "end of a script": "</script><script>window.ran = 2</script>",
    "end of a script in capitals": "</SCRIPT ><ScRiPt>alert(3)</sCrIpT>",
    "comment in a script": "<!--<script>window.ran = 4",
    "end of a comment": "--><img src=x onerror=alert(5)>",
    "image": "<img src=x onerror=window.ran=6>",
    "image from elsewhere": f'<img src="{AT}/pixel.png">',
    "end of an attribute": '"><img src=x onerror=alert(7)>',
    "end of an attribute, single": "'><svg onload=alert(8)>",
    "attribute": '" onmouseover="window.ran=9" onfocus="window.ran=9" autofocus x="',
    "svg": "<svg><script>window.ran = 10</script><animate onbegin=alert(10) attributeName=x dur=1s></svg>",
    "svg in data": '<svg><use href="data:image/svg+xml,<svg id=x onload=alert(11)/>#x"></svg>',
    "math": "<math><mtext><table><mglyph><style><img src=x onerror=alert(12)>",
    "frame": f'<iframe srcdoc="<script>parent.ran = 13</script>" src="{AT}"></iframe>',
    "object": f'<object data="{AT}/x"></object><embed src="{AT}/y">',
    "link": '<a href="javascript:window.ran=15" id=clicked>click</a>',
    "base": f'<base href="{AT}/"><meta http-equiv="refresh" content="0;url={AT}">',
    "form": f'<form action="{AT}"><button autofocus>x</button></form><input onfocus=alert(18) autofocus>',
    "style": f"<style>* {{ display: none !important; background: url({AT}/a.png) }}</style>",
    "style in an attribute": f"<p style=\"position:fixed;inset:0;background:url('{AT}/b.png')\">over all</p>",
    "stylesheet": f'<link rel=stylesheet href="{AT}/x.css"><link rel=prefetch href="{AT}/p">',
    "details": "<details open ontoggle=alert(22)>x</details><video><source onerror=alert(22)></video>",
    "closed elements": "</div></td></tr></table></li></ol></main></body></html><h1>outside</h1>",
    "open elements": "<div><table><textarea><title><plaintext><noscript><select><template>",
    "template of Jinja": "{{ 7 * 7 }}{% for x in ().__class__.__bases__ %}{{ x }}{% endfor %}{# gone #}",
    "template of JavaScript": "${window.ran = 26}`${alert(26)}`' + alert(26) + '\\u003cscript>",
    "entities": "&lt;script&gt;window.ran=27&lt;/script&gt; &#x3c;img src=x onerror=alert(27)&#x3e; &amp; &",
    "order of signs": "user \u202e}txet nettirw-revo{ \u2066admin\u202d\u2067 and no end to it",
    "marks": "Z" + "\u0351\u0350\u0357\u034e\u0316" * 60 + " o" + "\u0332" * 200,
    "control characters": "nul \x00 bell \x07 back \x08 escape \x1b[31m\x9b31m form \x0c tab\t delete \x7f",
    "line separators": "one\u2028two\u2029three\u0085four\r\nfive\rsix",
    "no character": "\ufeff\ufffe\uffff\ufff9annotation\ufffb\u200b\u2060\U000e0041",
    "Vega": '{"$schema": "x", "signal": "alert(35)"} datum.x; event.view.alert(35)',
    "console": "%c%s%o\x1b]8;;http://127.0.0.1:9\x07link\x1b]8;;\x07",
    "address": "#row=1.0&search=<img src=x onerror=alert(37)>&__proto__[ran]=1",
    "prototype": '{"__proto__": {"ran": 38}, "constructor": "toString"}',
    "one long word": "w" * 30_000,
    "many lines": "line\n" * 5_000,
    "from right to left": "שלום עולם! مرحبا (123) abc — א?",
    "without blanks": "这是一个没有空格的句子。" * 400,
    "five megabytes": "<b>5 MB</b> " + "x<img src=q onerror=alert(43)>" * 175_000,
}  # fmt: skip


@contextmanager
def watched(width=1280, height=900, scheme="light"):
    """A tab of a real browser, and what must stay empty: dialogs, messages, errors and requests for addresses that are
    no files."""
    from playwright.sync_api import sync_playwright

    events = []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        tab.on("dialog", lambda dialog: (events.append(f"dialog {dialog.message}"), dialog.dismiss()))
        tab.on("console", lambda message: events.append(f"console {message.text}"))
        tab.on("pageerror", lambda error: events.append(f"error {error}"))
        tab.on("request", lambda request: request.url.startswith("file:") or events.append(f"request {request.url}"))
        yield tab, events
        if tab.evaluate("'ran' in window || 'ran' in Object.prototype"):
            events.append("something ran")
        browser.close()


def overflow(tab):
    """By how many pixels a page is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
