"""The footprint of a training."""

from huggingface_hub import ModelCard

from tests.support.model_folders import cells, put, render, section


def test_emissions_are_those_of_codecarbon_summed_over_runs(full):
    names = "run_id,duration,emissions,energy_consumed,country_name,region,gpu_model,cpu_model"
    rows = ["a,60,0.001,0.01,Norway,oslo,,Some CPU", "a,3600,0.25,1.5,Norway,oslo,,Some CPU"]
    rows += ["b,1800,0.125,0.5,Norway,oslo,,Some CPU"]
    put(full, "emissions.csv", "\n".join([names, *rows]) + "\n")
    card = render(full)
    assert dict(cells(section(card, "Environmental impact"))[2:]) == {
        "CO2 equivalents": "375 g, by CodeCarbon",
        "Energy": "2 kWh",
        "Time": "1 h 30 min",
        "Place": "oslo, Norway",
        "Hardware": "Some CPU",
    }
    assert ModelCard(card).data["co2_eq_emissions"] == {
        "emissions": 375.0,
        "source": "CodeCarbon",
        "training_type": "pre-training",
        "geographical_location": "oslo, Norway",
        "hardware_used": "Some CPU",
    }
