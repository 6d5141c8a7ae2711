"""The report's page: charts, utterances with their audio, weights, and the HTML that holds them."""
