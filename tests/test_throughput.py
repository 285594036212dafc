import math

import pytest

from convzoo.inference import has_bfloat16_instructions
from convzoo.inspection.dataset import inspect_dataset
from convzoo.inspection.throughput import diagnose
from convzoo.training.devices import training_device


def test_speed_and_doctor_agree_on_the_embedded_data():
    report = inspect_dataset("data/fashion-mnist", command="", splits=("test",), limit=300)
    speed, doctor = report["speed"], report["doctor"]
    assert speed["split"] == "test" and speed["crop"] == 28
    # More work takes longer; each is a real rate of at least one image in 10 ms.
    assert speed["decode_images_per_second"] > speed["augment_images_per_second"] > 100
    needed = math.ceil(2500 / speed["augment_images_per_second"])
    assert doctor["as_is"]["workers_needed"] == needed
    assert ("train.mixed_precision=bf16" in doctor["advice"][-1]) == has_bfloat16_instructions(
        training_device()
    )


SPEED = {
    "decode_images_per_second": 1000.0,
    "augment_images_per_second": 500.0,
    "bytes": 110_000.0,
    "shorter_side": 375.0,
    "presized_augment_images_per_second": 1250.0,
    "presized_bytes": 27_000.0,
    "presize": 256,
    "crop": 224,
}


def test_the_doctor_follows_its_closed_form():
    # 8 GPUs of 2,500: 20,000 images/s are 40 workers of 500, or 16 of 1,250. 24 of 32 cores are
    # left for workers: 12,000 images/s, so 40 % waiting; or 30,000, enough.
    doctor = diagnose(SPEED, num_gpus=8, images_per_second_per_gpu=2500.0, num_cores=32)
    assert doctor["worker_cores"] == 24
    as_is, presized = doctor["as_is"], doctor["presized"]
    assert (as_is["workers_needed"], as_is["workers_per_gpu"]) == (40, 5)
    assert as_is["supply_images_per_second"] == 12_000 and not as_is["cores_suffice"]
    assert as_is["wait_share"] == pytest.approx(0.4)
    assert as_is["read_megabytes_per_second"] == pytest.approx(2200)
    assert (presized["workers_needed"], presized["workers_per_gpu"]) == (16, 2)
    assert presized["cores_suffice"] and presized["wait_share"] == 0
    assert doctor["augmentation_share"] == pytest.approx(0.5)
    advice = " ".join(doctor["advice"])
    assert "2.5 times as fast; the cores then suffice, with data.num_workers=2" in advice
    assert "50% of a worker's time is augmentation" in advice
    assert "Use a machine" not in advice


@pytest.mark.parametrize(
    ("changes", "gpus", "cores", "said", "not_said"),
    [
        ({}, 1, 6, "The cores suffice: set data.num_workers=5.", "Presize"),
        ({}, 8, 10, "training would still wait 88% of the time", "suffice"),
        ({}, 8, 10, "Use a machine with 3 cores for each GPU; this one has 10 for 8", "suffice"),
        ({"shorter_side": 200.0}, 8, 32, "Use a machine with 6 cores for each GPU", "Presize"),
        (
            {"presized_augment_images_per_second": 520.0},
            8,
            32,
            "Use a machine with 6 cores for each GPU",
            "Presize",
        ),
    ],
)
def test_the_doctor_advises_what_helps(changes, gpus, *, cores, said, not_said):
    speed = SPEED | changes
    found = diagnose(speed, num_gpus=gpus, images_per_second_per_gpu=2500.0, num_cores=cores)
    advice = " ".join(found["advice"])
    assert said in advice and not_said not in advice
