"""Uses the console in a headless browser, as a person would, with one journey per panel.

    console.py ADDRESS CHROMIUM CHROMEDRIVER [SCREENSHOTS]

It prints a line for each journey. With a directory, it also saves a screenshot of each panel there.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

# Seconds per step, enough even for a busy machine.
PATIENCE = 120
BUTTON = "G030JF055364XVRB"
RULES = {
    "thresholds": [{
        "name": "too-bright", "things": "greenhouse-*", "field": "/lux",
        "raise": {"above": 35000, "for": "0 s"}, "clear": {"below": 35000, "for": "0 s"},
    }],
}


class Page:
    """The console's page."""

    def __init__(self, address, chromium, driver, screenshots):
        self.home = tempfile.mkdtemp(prefix="console-")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        # In a container there is neither a sandbox nor much shared memory.
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800",
                         f"--user-data-dir={self.home}", "--no-first-run", "--disable-background-networking"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.screenshots = screenshots
        self.driver.get(address)

    def close(self):
        self.driver.quit()
        shutil.rmtree(self.home, ignore_errors=True)

    def find(self, selector):
        return self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector), selector)[0]

    def wait(self, condition, what):
        return WebDriverWait(self.driver, PATIENCE, 0.1, [Exception]).until(lambda _: condition(), f"{what} did not appear")

    def wait_for_text(self, selector, *texts):
        """Waits until one of the elements contains all these texts."""
        def has_texts():
            shown = [element.get_attribute("textContent") for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]
            return any(all(text in one for text in texts) for one in shown)
        self.wait(has_texts, f"{selector} with {texts}")

    def click(self, selector):
        def try_click():
            self.driver.find_elements(By.CSS_SELECTOR, selector)[0].click()
            return True
        self.wait(try_click, selector)

    def fill(self, selector, text):
        element = self.find(selector)
        element.clear()
        element.send_keys(text)

    def select(self, selector, text):
        self.wait(lambda: Select(self.find(selector)).select_by_visible_text(text) or True, f"{text} in {selector}")

    def open(self, panel):
        self.driver.execute_script("location.hash = arguments[0]", panel)
        self.find(f"#panel-{panel.split('/')[0]}")

    def save(self, name):
        if self.screenshots:
            self.driver.execute_script("document.getElementById('toasts').replaceChildren()")
            self.driver.save_screenshot(str(Path(self.screenshots) / f"{name}.png"))

    def publish(self, device, sample=None, topic=None, payload=None):
        """Publishes a message, and waits until AWS IoT has acknowledged it."""
        self.open("publish")
        self.select("#thing", device)
        self.select("#sample", sample or "write your own")
        if payload is not None:
            self.fill("#topic", topic)
            self.fill("#payload", payload)
        self.click("#send")
        self.wait_for_text("#published", "Published.")

    def newest(self, thing, kind):
        """Waits for an event of a thing with this outcome at the top of the list, and opens it."""
        self.open("events")
        self.fill("#filter", thing)
        row = f"#events .row[data-kind='{kind}']"
        def is_first():
            rows = self.driver.find_elements(By.CSS_SELECTOR, "#events .row")
            rows.sort(key=lambda found: found.location["y"])
            return rows[0].get_attribute("data-kind") == kind and rows[0]
        found = self.wait(is_first, row)
        event_id = found.get_attribute("data-id")
        self.click(f"#events .row[data-id='{event_id}']")
        self.find(f"#path article[data-id='{event_id}']")
        return event_id


def click_and_its_path(page):
    page.publish(BUTTON, sample="single")
    page.save("publish")
    page.newest(BUTTON, "notification")
    page.wait_for_text("#path", f"Device {BUTTON} published", "gatehouse_button", "gatehouse-button",
                       f"Received SINGLE message from button ID: {BUTTON}", "encode(*, 'base64')", "payloadBase64")
    page.wait_for_text("#path", "Items in tables", "idempotency")
    page.save("events")


def markup_stays_text(page):
    page.publish(BUTTON, topic=f"iotbutton/{BUTTON}", payload="<img src=x onerror=alert(1)>")
    page.newest(BUTTON, "quarantine")
    page.wait_for_text("#path pre", "<img src=x onerror=alert(1)>")
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#path img"), "a payload became markup"


def keys_and_filter(page):
    page.open("publish")
    page.driver.execute_script("document.activeElement.blur()")
    page.find("body").send_keys("1")
    page.find("#panel-events")
    page.fill("#filter", "no-such-thing")
    page.wait_for_text("#counts", "0 shown")
    page.fill("#filter", BUTTON)
    page.find("#filter").send_keys(Keys.TAB)
    page.find("#events").send_keys(Keys.ARROW_DOWN)
    page.find("#events .row[aria-selected='true']")
    page.find("#events").send_keys(Keys.ESCAPE)
    page.wait_for_text("#path", "Select an event")


def malformed_message_is_resent(page):
    page.open("queues")
    page.click("#refresh-queues")
    page.click("#quarantine tr .show")
    page.wait_for_text("#quarantine tr.detail", "not JSON", "<img src=x")
    page.save("queues")
    page.click("#quarantine tr .resend")
    page.wait_for_text("#toasts", "Not accepted")
    # The list may be redrawn between finding a button and the click.
    def is_discarded():
        for button in page.driver.find_elements(By.CSS_SELECTOR, "#quarantine tr .discard"):
            button.click()
        return "Nothing is in quarantine" in page.find("#quarantine").text
    page.wait(is_discarded, "an empty quarantine")


def fault_is_retried(page):
    page.open("faults")
    page.select("#fault", "throttled")
    page.select("#fault-function", "button")
    page.select("#fault-service", "SNS")
    page.click("#add-fault")
    page.wait_for_text("#active-faults", "throttled", "button to SNS")
    page.save("faults")
    page.publish(BUTTON, sample="double")
    page.newest(BUTTON, "retried")
    page.wait_for_text("#path", "Fault: throttled", "SNS Publish")
    page.open("faults")
    page.click("#no-faults")
    page.wait_for_text("#active-faults", "None")
    page.newest(BUTTON, "notification")
    page.wait_for_text("#path", "Received DOUBLE message", "Attempt 2")


def shadow_is_edited(page):
    page.open(f"devices/{BUTTON}")
    page.wait_for_text("#device", "active", "Classic shadow")
    page.fill("#shadows textarea", '{"light": "on"}')
    page.click("#shadows .save-shadow")
    page.wait_for_text("#shadows [data-state='delta']", '"light": "on"')


def alarm_is_drawn(page):
    page.open("publish")
    page.fill("#new-thing", "greenhouse-1")
    page.click("#register")
    page.wait_for_text("#toasts", "greenhouse-1: registered")
    page.open("devices")
    page.click("details.card summary")
    page.driver.execute_script("document.getElementById('rules').value = arguments[0]", json.dumps(RULES))
    page.click("#upload-rules")
    page.wait_for_text("#toasts", "The rules apply")
    for lux in (20000, 36000):
        page.publish("greenhouse-1", topic="telemetry/greenhouse-1", payload=json.dumps({"lux": lux}))
    page.newest("greenhouse-1", "notification")
    page.wait_for_text("#path", "gatehouse-telemetry", "gatehouse-alarm", "Notification on gatehouse-alarms")
    page.open("devices/greenhouse-1")
    page.wait_for_text("#alarms", "too-bright", "ALARM")
    page.wait_for_text("#readings svg", "too-bright 35,000")
    page.save("devices")
    page.fill("#alarms input[aria-label='By']", "a test")
    page.click("#alarms [data-action='acknowledge']")
    page.wait_for_text("#alarms", "acknowledged", "by a test")


def subscription_receives(page):
    page.open("publish")
    page.fill("#topic-filter", "doorbell/+")
    page.click("#subscribe")
    page.wait_for_text("#subscriptions", "doorbell/+")
    page.publish("front-door", sample="ring")
    page.wait_for_text("#messages", "doorbell/front-door", "Somebody is at the door!")


def recording_is_replayed(page):
    page.open("scenarios")
    page.fill("#recording", "browser-test")
    page.click("#record")
    page.wait_for_text("#saved", "target/scenarios/browser-test.json")
    page.click("li[data-name='doorbell'] .play")
    page.find("#runs .run[data-scenario='doorbell'][data-state='passed']")
    page.click("#runs details summary")
    page.wait_for_text("#runs .path", "gatehouse_doorbell")
    page.save("scenarios")


def topology_counts(page):
    page.open("topology")
    page.wait_for_text("#topology g.rule[data-name='gatehouse_button']", "iotbutton/+")
    page.find("#topology g.function[data-name='gatehouse-alarm']")
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#topology .edge")) > 20
    counted = "#topology g.rule[data-name='gatehouse_button'] .count"
    page.wait(lambda: int(page.find(counted).text) >= 3, counted)
    page.save("topology")


def ten_thousand_events_stay_smooth(page):
    result = page.driver.execute_async_script("""
        const done = arguments[0];
        import("/events.js").then(async ({ eventsPanel }) => {
          let listener;
          const { panel } = eventsPanel({ on: (_, added) => { listener = added; } });
          document.getElementById("main").append(panel);
          for (let first = 1; first <= 10000; first += 500) {
            const events = Array.from({ length: 500 }, (_, index) => ({ number: first + index, version: first + index,
              id: `event-${first + index}`, at: first + index, thing: "many", topic: "telemetry/many", system: false, bytes: 1,
              kind: "done", millis: 1, faults: 0, functions: [{ function: "gatehouse-telemetry", kind: "done", text: "done", attempts: 1 }] }));
            listener({ events, totals: { messages: first + 499, systemMessages: 0 } });
          }
          await new Promise((resolve) => setTimeout(resolve));
          const result = [panel.querySelectorAll(".rows .row").length, panel.querySelector(".counts").textContent];
          panel.remove();
          done(result);
        }).catch((error) => done([String(error), ""]));
    """)
    rows, counts = result
    assert isinstance(rows, int) and 0 < rows < 200, f"{rows} rows are in the page"
    assert counts == "5000 shown, 10000 in all", counts


def phone_and_dark(page):
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    page.open("events")
    page.save("events-dark")
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True})
    for panel in ("events", "publish", "devices", "queues", "faults", "scenarios", "topology"):
        page.open(panel)
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, f"{panel} is {width} pixels wide on a phone"
    page.open("events")
    page.click("#path .close")
    page.save("phone")


def no_error_was_logged(page):
    errors = [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors


JOURNEYS = [
    click_and_its_path, markup_stays_text, keys_and_filter, malformed_message_is_resent, fault_is_retried, shadow_is_edited,
    alarm_is_drawn, subscription_receives, recording_is_replayed, topology_counts, ten_thousand_events_stay_smooth,
    phone_and_dark, no_error_was_logged,
]


def main(address, chromium, driver, screenshots=None):
    if screenshots:
        os.makedirs(screenshots, exist_ok=True)
    page = Page(address, chromium, driver, screenshots)
    try:
        for journey in JOURNEYS:
            print(journey.__name__, flush=True)
            try:
                journey(page)
            except Exception:
                if screenshots:
                    page.save("failure")
                print(page.driver.get_log("browser"), file=sys.stderr)
                raise
    finally:
        page.close()


main(*sys.argv[1:])
