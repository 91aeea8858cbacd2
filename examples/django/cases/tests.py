"""What is written and what is handled, without server or relay."""

import json

from django.test import TestCase, TransactionTestCase

from cases.events import CaseOpened, TaskAdded
from cases.handlers import case_mgmt
from cases.models import Case, Task
from seaway import Poison
from seaway.django.testing import deliver, written


class CaseTests(TestCase):
    def test_a_case_is_opened_and_gets_its_task(self) -> None:
        body = json.dumps({"title": "Broken window"})
        opened = self.client.post("/cases", body, "application/json").json()
        [event] = written(CaseOpened)
        self.assertEqual(event, CaseOpened(opened["id"], "Broken window"))

        deliver(case_mgmt, event)
        self.assertEqual(Task.objects.get().what, "look into: Broken window")
        self.assertEqual(written(TaskAdded), [TaskAdded(opened["id"], "look into: Broken window")])

    def test_what_fails_leaves_nothing(self) -> None:
        with self.assertRaisesMessage(Poison, "a case needs a title"):
            deliver(case_mgmt, CaseOpened(str(Case().id), ""))
        self.assertEqual((Task.objects.count(), written()), (0, []))


class CommittedTests(TransactionTestCase):
    """With commits: what one test wrote is gone before the next."""

    def test_one(self) -> None:
        self.assertEqual(written(), [])
        self.client.post("/cases", json.dumps({"title": "Lost key"}), "application/json")
        self.assertEqual([event.title for event in written(CaseOpened)], ["Lost key"])

    test_another = test_one
