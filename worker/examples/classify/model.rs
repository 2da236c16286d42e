//! The model: multinomial logistic regression of an iris's species on its four lengths, trained on
//! the 150 irises of `iris.csv` when the worker starts.

use single_state_worker::{Result, anyhow, bail, ensure};

/// See README.md for where these come from.
pub(crate) const IRIS: &str = include_str!("iris.csv");

pub(crate) const SPECIES: [&str; 3] = ["setosa", "versicolor", "virginica"];

/// Length and width of a sepal, length and width of a petal, in cm.
pub(crate) type Flower = [f64; 4];

/// A line of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) flower: Flower,
    /// Index into [`SPECIES`].
    pub(crate) species: Option<usize>,
}

/// Steps of the training, each over all rows, …
const STEPS: usize = 150;
/// … and how far each goes down the gradient.
const RATE: f64 = 2.0;

#[derive(Debug)]
pub(crate) struct Model {
    /// What stands for the mean of each measure, and for its spread.
    mean: Flower,
    spread: Flower,
    /// For each species a weight of each measure, and a constant.
    weights: [[f64; 5]; 3],
    /// How many rows it has seen.
    pub(crate) trained_on: usize,
}

impl Model {
    pub(crate) fn train() -> Self {
        // This file is ours: it can be read.
        let rows = read_rows(IRIS.as_bytes()).unwrap_or_default();
        let count = rows.len() as f64;
        let over_rows = |of: &dyn Fn(&Flower) -> f64| {
            rows.iter().map(|row| of(&row.flower)).sum::<f64>() / count
        };
        let mean: Flower = std::array::from_fn(|i| over_rows(&|flower| flower[i]));
        let spread =
            std::array::from_fn(|i| over_rows(&|flower| (flower[i] - mean[i]).powi(2)).sqrt());
        let mut model = Self { mean, spread, weights: [[0.0; 5]; 3], trained_on: rows.len() };
        for _ in 0..STEPS {
            model.step(&rows);
        }
        model
    }

    fn step(&mut self, rows: &[Row]) {
        let mut gradient = [[0.0; 5]; 3];
        for row in rows {
            let (inputs, shares) = (self.inputs(&row.flower), self.shares(&row.flower));
            for (species, share) in shares.into_iter().enumerate() {
                let error = share - f64::from(u8::from(row.species == Some(species)));
                for (slope, input) in gradient[species].iter_mut().zip(inputs) {
                    *slope += error * input / rows.len() as f64;
                }
            }
        }
        for (weight, slope) in self.weights.iter_mut().flatten().zip(gradient.iter().flatten()) {
            *weight -= RATE * slope;
        }
    }

    /// The likeliest species, an index into [`SPECIES`], and how likely it is, from 0 to 1.
    pub(crate) fn classify(&self, flower: &Flower) -> (usize, f64) {
        let shares = self.shares(flower).into_iter().enumerate();
        shares.max_by(|(_, one), (_, other)| one.total_cmp(other)).unwrap_or_default()
    }

    fn inputs(&self, flower: &Flower) -> [f64; 5] {
        std::array::from_fn(|i| match flower.get(i) {
            Some(measure) => (measure - self.mean[i]) / self.spread[i],
            None => 1.0,
        })
    }

    /// How likely each species is; the sum is 1.
    fn shares(&self, flower: &Flower) -> [f64; 3] {
        let inputs = self.inputs(flower);
        let scores = self.weights.map(|w| w.iter().zip(inputs).map(|(w, x)| w * x).sum::<f64>());
        let highest = scores.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let powers = scores.map(|score| (score - highest).exp());
        let sum: f64 = powers.iter().sum();
        powers.map(|power| power / sum)
    }
}

/// Reads a table: four numbers a line with commas between, and perhaps the species. A first line
/// that begins with no number is a heading.
pub(crate) fn read_rows(table: &[u8]) -> Result<Vec<Row>> {
    let text = std::str::from_utf8(table).map_err(|_| anyhow!("this is no text, so no table"))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let is_heading = |line: &str| line.split(',').next().is_some_and(|s| s.parse::<f64>().is_err());
    let rows = lines.filter(|(number, line)| *number > 1 || !is_heading(line));
    let rows = rows.map(|(number, line)| read_row(line).map_err(|e| anyhow!("line {number}: {e}")));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    ensure!(!rows.is_empty(), "this table has no rows");
    Ok(rows)
}

fn read_row(line: &str) -> Result<Row> {
    let cells: Vec<_> = line.split(',').map(str::trim).collect();
    let (measures, label) = match cells.as_slice() {
        [a, b, c, d] => ([a, b, c, d], None),
        [a, b, c, d, label] => ([a, b, c, d], Some(label)),
        cells => bail!("{} cells instead of 4 numbers and perhaps a species", cells.len()),
    };
    let mut flower = Flower::default();
    for (measure, cell) in flower.iter_mut().zip(measures) {
        let number = cell.parse::<f64>().ok().filter(|number| (0.0..1000.0).contains(number));
        *measure = number.ok_or_else(|| anyhow!("“{cell}” is not a number of centimetres"))?;
    }
    Ok(Row { flower, species: label.and_then(|l| SPECIES.iter().position(|known| known == l)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_knows_its_own_flowers() {
        let (model, rows) = (Model::train(), read_rows(IRIS.as_bytes()).unwrap());
        assert_eq!((rows.len(), model.trained_on), (150, 150));
        let is_right = |row: &&Row| Some(model.classify(&row.flower).0) == row.species;
        let right = rows.iter().filter(is_right).count();
        assert!(right >= 145, "{right} of 150");
    }

    #[test]
    fn a_heading_is_passed_over_and_an_unknown_species_is_none() {
        let rows = read_rows(b"a,b,c,d,e\n1,2,3,4,rose\n\n1,2,3,4\n").unwrap();
        assert_eq!(rows, vec![Row { flower: [1.0, 2.0, 3.0, 4.0], species: None }; 2]);
        for (table, words) in [
            (&b"a,b,c,d\n"[..], "no rows"),
            (b"1,2\n", "line 1: 2 cells"),
            (b"1,2,3,NaN\n", "line 1: “NaN”"),
            (b"\xff\xfe", "no text"),
        ] {
            let error = read_rows(table).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
